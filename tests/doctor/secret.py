"""What the application under test and the doctor both know."""

SECRET = "sesame-open-thyself"
