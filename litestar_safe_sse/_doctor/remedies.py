"""What to do about each fault, by proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar_safe_sse._doctor.findings import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("REMEDIES",)

_ABORT = {
    "nginx": "proxy_ignore_client_abort off;",
    "Caddy": "leave flush_interval away: Caddy flushes event streams by itself, and hangs up sooner so",
    "HAProxy": "option abortonclose",
    "Apache": "nothing to set: it hangs up at the second heartbeat, so shorten ping_interval",
    "Traefik": "nothing to set: it passes aborts on",
    "cloud load balancer": "shorten ping_interval: it hangs up when it has a heartbeat that it can't pass on",
    "the application": "see that no middleware keeps http.disconnect from receive(), and set max_lifetime",
}

REMEDIES: Mapping[Fault, Mapping[str, str]] = {
    Fault.ABORT_LATE: _ABORT,
    Fault.ABORT_UNNOTICED: _ABORT,
    Fault.BUFFERING: {
        "nginx": "proxy_buffering off; and no proxy_ignore_headers X-Accel-Buffering",
        "Caddy": "no response_buffers (buffer_responses before 2.7)",
        "HAProxy": "option http-no-delay; and no http-response wait-for-body",
        "Apache": "no SetOutputFilter that waits for more, as mod_ext_filter or mod_security",
        "Traefik": "no buffering middleware on this router or its entry point",
        "cloud load balancer": "switch response buffering off, or pass event streams by a route without a CDN",
    },
    Fault.COMPRESSION: {
        "nginx": "leave text/event-stream out of gzip_types and brotli_types",
        "Caddy": "encode without a match on text/event-stream",
        "HAProxy": "leave text/event-stream out of compression type",
        "Apache": "SetEnvIf Accept text/event-stream no-gzip no-brotli; or AddOutputFilterByType without it",
        "Traefik": "compress.excludedContentTypes: [text/event-stream]",
        "cloud load balancer": "leave text/event-stream out of what is compressed",
    },
    Fault.CUT_AT_RESTART: {
        "the application": "stop it by SIGTERM, and give it shutdown_grace + cleanup_timeout seconds before SIGKILL",
        "nginx": "proxy_http_version 1.1; so that a whole stream can be told from one that was cut",
    },
    Fault.HEADERS_HELD: {
        "nginx": "proxy_buffering off;",
        "Caddy": "encode without a match on text/event-stream: it holds headers until the first bytes",
        "HAProxy": "no http-response wait-for-body",
        "Apache": "no SetOutputFilter that waits for more, as mod_ext_filter or mod_security",
        "Traefik": "no buffering middleware on this router or its entry point",
        "cloud load balancer": "switch response buffering off",
        "the application": "give the response a comment_message: it is sent with the headers, and carries them",
    },
    Fault.HTTP_1_0: {
        "nginx": 'proxy_http_version 1.1; proxy_set_header Connection "";',
        "Apache": "no SetEnv force-proxy-request-1.0 or proxy-nokeepalive",
    },
    Fault.IDLE_TIMEOUT: {
        "nginx": "proxy_read_timeout and send_timeout above ping_interval, as 75s",
        "Caddy": "transport http { read_timeout 75s }, or none",
        "HAProxy": "timeout server and timeout client above ping_interval, as 75s",
        "Apache": "ProxyTimeout and ProxyPass ... timeout= above ping_interval, as 75",
        "Traefik": "nothing to set: none of its time-outs cuts a stream for being silent",
        "cloud load balancer": "its idle (backend) time-out above ping_interval; AWS ALB: idle_timeout.timeout_seconds",
        "the application": "SafeSSEConfig(ping_interval=...) below half of the shortest time-out",
    },
    Fault.LAST_EVENT_ID: {
        "nginx": "no proxy_set_header Last-Event-ID, nor underscores_in_headers tricks",
        "Caddy": "no header_up -Last-Event-ID",
        "HAProxy": "no http-request del-header Last-Event-ID",
        "Apache": "no RequestHeader unset Last-Event-ID",
        "Traefik": "no customRequestHeaders with an empty Last-Event-ID",
        "cloud load balancer": "have it forward the header Last-Event-ID; CDNs forward those that are listed only",
        "the application": "or have clients send it in the query: SafeSSEConfig(last_event_id_query=...)",
    },
    Fault.LIMITED_DURATION: {
        "Caddy": "no write in the timeouts of its servers",
        "Traefik": "respondingTimeouts.writeTimeout: 0 for this entry point, as it is by default",
        "cloud load balancer": "its time-out for a whole response; Google Cloud: timeoutSec of the backend service",
        "the application": "or SafeSSEConfig(max_lifetime=...) below it: streams end properly, and clients come back",
    },
    Fault.OUTER_BUFFERING: {
        "nginx": "outer: proxy_buffering off; or inner: proxy_pass_header X-Accel-Buffering;",
        "Caddy": "outer: no response_buffers (buffer_responses before 2.7)",
        "HAProxy": "outer: option http-no-delay, and no http-response wait-for-body",
        "Apache": "outer: no SetOutputFilter that waits for more, as mod_ext_filter or mod_security",
        "Traefik": "outer: no buffering middleware on this router or its entry point",
        "cloud load balancer": "switch its response buffering off",
    },
    Fault.REFUSED_AT_RESTART: {
        "nginx": "proxy_next_upstream error timeout http_502 http_503; over two or more servers that restart in turn",
        "Caddy": "lb_try_duration 10s",
        "HAProxy": "retries 10, option redispatch, and retry-on conn-failure empty-response",
        "Apache": "ProxyPass ... retry=0, behind a balancer of two or more members",
        "Traefik": "the retry middleware, over two or more servers that restart in turn",
        "cloud load balancer": "restart in turn, and take a server out of the pool before it is stopped",
    },
    Fault.RESPONSE: {
        "nginx": "no proxy_cache, and no add_header Content-Type or Cache-Control for this location",
        "Caddy": "no header or handle_errors for this route",
        "HAProxy": "no http-response set-header Content-Type, no cache",
        "Apache": "no Header set Content-Type or ForceType, no CacheEnable for this path",
        "Traefik": "no headers middleware that replaces Content-Type or Cache-Control",
        "cloud load balancer": "switch caching of this path off, and pass the headers of the application on",
        "the application": "a 503 says that max_streams are open, or that it is being stopped",
    },
    Fault.SIX_CONNECTIONS: {
        "nginx": "listen 443 ssl http2; (http2 on; from 1.25)",
        "Caddy": "serve by https: HTTP/2 is on by itself",
        "HAProxy": "bind :443 ssl crt ... alpn h2,http/1.1",
        "Apache": "Protocols h2 http/1.1",
        "Traefik": "serve by https: HTTP/2 is on by itself",
        "cloud load balancer": "switch HTTP/2 on for its listener",
    },
    Fault.STALL_UNNOTICED: {
        "nginx": "proxy_buffering off; or proxy_max_temp_file_size 0; so that it doesn't keep what nobody reads",
        "Caddy": "no response_buffers (buffer_responses before 2.7)",
        "HAProxy": "timeout client above ping_interval, and no larger than need be",
        "Apache": "no SetOutputFilter that waits for more, as mod_ext_filter or mod_security",
        "Traefik": "no buffering middleware on this router or its entry point",
        "cloud load balancer": "switch response buffering off",
        "the application": "SafeSSEConfig(send_timeout=...) must not be None",
    },
    Fault.STREAMS_LIMITED: {
        "nginx": "limit_conn above the streams that one address may have",
        "Caddy": "no limit on the connections of one client",
        "HAProxy": "maxconn, and no deny by sc_conn_cur below that",
        "Apache": "MaxRequestWorkers (event MPM): each stream holds one thread",
        "Traefik": "inFlightReq.amount above the streams that one address may have",
        "cloud load balancer": "raise its limit of connections to a server",
        "the application": "SafeSSEConfig(max_streams=...), and more workers",
    },
}
