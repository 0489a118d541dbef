"""Reading from subscriptions: every wait is bounded."""

from __future__ import annotations

from litestar_safe_sse.sources.testing import begin, data, ids, take, take_all, until

__all__ = ("begin", "data", "ids", "take", "take_all", "until")
