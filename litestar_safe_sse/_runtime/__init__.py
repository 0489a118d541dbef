"""What asyncio and trio do differently."""
