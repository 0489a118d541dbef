"""One span for each stream, on which its body and its cleanups hang, and none for each of its events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar_safe_sse._core.state import CloseReason
from litestar_safe_sse._core.statistics import Observer
from litestar_safe_sse.config import check_method
from litestar_safe_sse.exceptions import MissingExtraError

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

    from litestar_safe_sse._core.statistics import ObservedStream

__all__ = ("OpenTelemetryTracing",)


class _Traced:
    __slots__ = ("span", "token")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.token: Any = None
        """What sets back what the request's task hangs its spans on."""


class OpenTelemetryTracing(Observer):
    """Makes one span for each stream, a child of the request's; needs the extra ``otel``.

    The spans of the body and the cleanups are its children. While events are sent, spans that are begun in the
    request's task are not sampled, such as those that OpenTelemetry's ASGI middleware makes of each ``send``.

    Args:
        tracer_provider: Where the tracer is from; the global one unless given.

    Raises:
        MissingExtraError: ``opentelemetry-api`` is not installed.
        InvalidFieldError: The provider is none.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        check_method("tracer_provider", tracer_provider, "get_tracer", "a TracerProvider of OpenTelemetry's")
        try:
            from opentelemetry import context, trace
        except ImportError as error:
            raise MissingExtraError("traces need litestar-safe-sse[otel]; install it") from error
        self._context = context
        self._trace = trace
        self._tracer = trace.get_tracer("litestar_safe_sse", tracer_provider=tracer_provider)
        self._traced: dict[str, _Traced] = {}

    def stream_opened(self, stream: ObservedStream) -> None:
        attributes = {"sse.stream.id": stream.id, "sse.handler": stream.handler}
        self._traced[stream.id] = _Traced(self._tracer.start_span(f"SSE {stream.handler}", attributes=attributes))

    def stream_answered(self, stream: ObservedStream) -> None:
        traced = self._traced.get(stream.id)
        if traced is not None:
            traced.span.add_event("open")
            traced.token = self._context.attach(self._unsampled())

    def stream_owned(self, stream: ObservedStream) -> None:
        traced = self._traced.get(stream.id)
        if traced is not None:  # it is the owner's own context, and goes with it
            self._context.attach(self._trace.set_span_in_context(traced.span))

    def stream_begun(self, stream: ObservedStream) -> None:
        traced = self._traced.get(stream.id)
        if traced is not None:
            traced.span.add_event("first event")

    def stream_closed(self, stream: ObservedStream) -> None:
        traced = self._traced.pop(stream.id, None)
        if traced is None:
            return
        is_answered = traced.token is not None
        if is_answered:
            self._context.detach(traced.token)
        reason = str(stream.close_reason)
        span = traced.span
        span.add_event("close", {"sse.close_reason": reason})
        span.set_attributes(
            {
                "sse.close_reason": reason,
                "sse.events": stream.statistics().events,
                "sse.bytes": stream.bytes_sent,
                "sse.cleanup_failures": stream.failures,
            }
        )
        # What is raised ahead of the headers is told by the request's status, which may be a 404.
        if (is_answered and stream.close_reason is CloseReason.ERROR) or stream.failures:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()

    def _unsampled(self) -> Any:
        """Returns the current context with a span of the same trace that is not sampled, nor are its children."""
        trace = self._trace
        current = trace.get_current_span().get_span_context()
        muted = trace.SpanContext(
            current.trace_id, current.span_id, is_remote=False, trace_flags=trace.TraceFlags(trace.TraceFlags.DEFAULT)
        )
        return trace.set_span_in_context(trace.NonRecordingSpan(muted))
