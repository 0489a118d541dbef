"""The tests, and the applications that servers run for them."""

import os
import sys

if "SAFE_SSE_RECORDS" in os.environ:
    # In one of hundreds of servers, of whose applications none has models or traces: Litestar imports these if they
    # are there, which takes as long as all else that it imports.
    sys.modules.update({"pydantic": None, "opentelemetry": None})  # type: ignore[dict-item]
