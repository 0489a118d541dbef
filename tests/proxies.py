"""nginx, HAProxy, Caddy, Apache and Traefik in front of a server, with what keeps streams from working and without."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from tests.bounds import START, WAIT
from tests.ports import free_port

IDLE_TIMEOUT = 2
"""Seconds of the idle time-out that is too short."""

NGINX_TEMPLATE = """
daemon off;
master_process off;
pid {directory}/pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://{upstream};
            proxy_set_header Connection "";
            {fault}
        }}
    }}
}}
"""
NGINX = NGINX_TEMPLATE.replace("{upstream}", "127.0.0.1:{upstream}").replace(
    "{fault}", "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; {fault}"
)
HAPROXY = """
global
    maxconn 100
defaults
    mode http
    option http-no-delay
    option forwardfor
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend clients
    bind 127.0.0.1:{port}
    default_backend servers
backend servers
    {fault}
    server one 127.0.0.1:{upstream}
"""
BALANCED = "balance roundrobin\n    server two 127.0.0.1:{second}"
CADDY = """
{{
    admin off
    auto_https off
}}
http://127.0.0.1:{port} {{
    {fault}
}}
"""
CADDY_PLAIN = "reverse_proxy 127.0.0.1:{upstream}"

APACHE = """
ServerRoot {directory}
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
PidFile {directory}/pid
ErrorLog {directory}/error.log
DefaultRuntimeDir {directory}
User www-data
Group www-data
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
LoadModule filter_module {modules}/mod_filter.so
LoadModule deflate_module {modules}/mod_deflate.so
LoadModule ext_filter_module {modules}/mod_ext_filter.so
ExtFilterDefine rewrite mode=output cmd="/bin/sed s/one/other/"
StartServers 1
ThreadsPerChild 64
MaxRequestWorkers 64
ProxyPass / http://127.0.0.1:{upstream}/
{fault}
"""

TRAEFIK = """
global:
  checkNewVersion: false
entryPoints:
  clients:
    address: 127.0.0.1:{port}
    {fault}
providers:
  file:
    filename: {directory}/routes.yml
"""
TRAEFIK_ROUTES = """
http:
  routers:
    all:
      rule: PathPrefix(`/`)
      service: servers
  services:
    servers:
      loadBalancer:
        servers:
          - url: http://127.0.0.1:{upstream}
  middlewares:
    buffering:
      buffering: {{memResponseBodyBytes: 1048576}}
    compress:
      compress: {{}}
    uncompressed:
      compress: {{excludedContentTypes: [text/event-stream]}}
    few:
      inFlightReq: {{amount: 3}}
    enough:
      inFlightReq: {{amount: 100}}
    forgetful:
      headers: {{customRequestHeaders: {{Last-Event-ID: ""}}}}
    renaming:
      headers: {{customResponseHeaders: {{Content-Type: text/plain}}}}
"""


@dataclass(frozen=True)
class ProxyKind:
    """A proxy, and how it is configured to have each fault.

    Attributes:
        name: Its own.
        configuration: What is in its file, but for the lines of a fault.
        command: What starts it.
        faults: The lines of each.
        file: The name of that file.
        others: Other files, by their names.
        lost: What it answers as long as it has not read where requests go.
        scheme: That of its URL.
    """

    name: str
    configuration: str
    command: Sequence[str]
    faults: dict[str, str]
    file: str = "configuration"
    others: Mapping[str, str] = field(default_factory=dict)
    lost: bytes = b""
    scheme: str = "http"


def passing(middleware: str) -> str:
    """Returns the line that has each request pass one of the middlewares."""
    return f"http: {{{{middlewares: [{middleware}@file]}}}}"


GZIP = "gzip on; gzip_types text/event-stream; gzip_proxied any; gzip_min_length 0;"

KINDS = {
    kind.name: kind
    for kind in (
        ProxyKind(
            "nginx",
            NGINX,
            ("nginx", "-p", "{directory}", "-c", "{file}"),
            {
                "none": "proxy_http_version 1.1;",
                "buffering": "proxy_ignore_headers X-Accel-Buffering;",
                "compression": f"proxy_http_version 1.1; proxy_ignore_headers X-Accel-Buffering; {GZIP}",
                "harmless compression": f"proxy_http_version 1.1; {GZIP}",
                "idle-timeout": f"proxy_http_version 1.1; proxy_read_timeout {IDLE_TIMEOUT}s;",
            },
        ),
        ProxyKind(
            "haproxy",
            HAPROXY,
            ("haproxy", "-db", "-f", "{file}"),
            {
                "none": "",
                "buffering": "http-response wait-for-body time 30s at-least 12000",
                "idle-timeout": f"timeout server {IDLE_TIMEOUT}s",
            },
        ),
        ProxyKind(
            "caddy",
            CADDY,
            ("caddy", "run", "--adapter", "caddyfile", "--config", "{file}"),
            {
                "none": CADDY_PLAIN,
                "buffering": "reverse_proxy 127.0.0.1:{upstream} {{\n buffer_responses\n}}",
                "compression": "encode gzip {{\n match header Content-Type text/event-stream*\n minimum_length 1\n}}\n"
                "reverse_proxy 127.0.0.1:{upstream} {{\n header_down Cache-Control no-cache\n}}",
                "idle-timeout": "reverse_proxy 127.0.0.1:{upstream} {{\n transport http {{\n"
                f" read_timeout {IDLE_TIMEOUT}s\n}}}}\n}}}}",
            },
        ),
        ProxyKind(
            "apache",
            APACHE,
            ("apache2", "-d", "{directory}", "-f", "{file}", "-DFOREGROUND"),
            {
                "none": "",
                "buffering": "<Location />\nSetOutputFilter rewrite\n</Location>",
                "harmless compression": "SetOutputFilter DEFLATE",
                "idle-timeout": f"ProxyTimeout {IDLE_TIMEOUT}",
            },
        ),
        ProxyKind(
            "traefik",
            TRAEFIK,
            ("traefik", "--configFile={file}"),
            {
                "none": "",
                "buffering": passing("buffering"),
                "harmless compression": passing("compress"),
                "limited-duration": f"transport: {{{{respondingTimeouts: {{{{writeTimeout: {IDLE_TIMEOUT}s}}}}}}}}",
                "streams-limited": passing("few"),
                "last-event-id": passing("forgetful"),
                "response": passing("renaming"),
            },
            file="configuration.yml",
            others={"routes.yml": TRAEFIK_ROUTES},
            lost=b"404 page not found",
        ),
    )
}
MODULES = "/usr/lib/apache2/modules"

HURRIED_CADDY = replace(
    KINDS["caddy"],
    configuration=CADDY.replace(
        "auto_https off", f"auto_https off\n    servers {{{{\n timeouts {{{{\n write {IDLE_TIMEOUT}s\n}}}}\n}}}}"
    ),
    faults={"limited-duration": CADDY_PLAIN},
)
"""Caddy with the time-out of Traefik's that cuts streams, which is among its global options."""

CERTIFICATES = """
tls:
  certificates:
    - certFile: {certificate}
      keyFile: {key}
"""
TRAEFIK_TLS = replace(
    KINDS["traefik"],
    others={"routes.yml": TRAEFIK_ROUTES + CERTIFICATES},
    faults={
        "none": f"http: {{{{tls: {{{{}}}}}}}}\n    transport: "
        f"{{{{respondingTimeouts: {{{{readTimeout: {IDLE_TIMEOUT}s, idleTimeout: {IDLE_TIMEOUT}s}}}}}}}}"
    },
    scheme="https",
)
"""The same with a certificate, and with time-outs that are none of a response's."""

TLS = ProxyKind(
    "nginx",
    NGINX.replace(
        "listen 127.0.0.1:{port};",
        "listen 127.0.0.1:{port} ssl http2; ssl_certificate {certificate}; ssl_certificate_key {key};",
    ),
    KINDS["nginx"].command,
    KINDS["nginx"].faults,
)
"""The same with a certificate."""

REMEDIED = {
    ("nginx", "buffering"): KINDS["nginx"].faults["buffering"] + " proxy_buffering off;",
    ("nginx", "compression"): KINDS["nginx"].faults["compression"].replace("text/event-stream", "text/plain")
    + " proxy_buffering off;",  # which is what is named next
    ("nginx", "idle-timeout"): "proxy_http_version 1.1; proxy_read_timeout 75s; send_timeout 75s;",
    ("haproxy", "buffering"): "option http-no-delay",
    ("haproxy", "idle-timeout"): "timeout server 75s",
    ("caddy", "buffering"): CADDY_PLAIN,
    ("caddy", "compression"): KINDS["caddy"].faults["compression"].replace("text/event-stream*", "text/html*"),
    ("caddy", "idle-timeout"): KINDS["caddy"].faults["idle-timeout"].replace(f"{IDLE_TIMEOUT}s", "75s"),
    ("apache", "buffering"): "",
    ("apache", "idle-timeout"): "ProxyTimeout 75",
    ("traefik", "buffering"): "",
    ("traefik", "compression"): passing("uncompressed"),
    ("traefik", "limited-duration"): "transport: {{respondingTimeouts: {{writeTimeout: 0}}}}",
    ("traefik", "streams-limited"): passing("enough"),
    ("traefik", "last-event-id"): "",
    ("traefik", "response"): "",
}
"""The lines of a fault, when what the doctor says about it has been done."""


def proxy(kind: ProxyKind, fault: str, upstream: int, directory: Path) -> AbstractContextManager[int]:
    """Runs a proxy in front of a port, and yields its own port."""
    return configured(kind, kind.faults[fault], directory, upstream=upstream)


def balancer(first: int | str, second: int | str, *, directory: Path, fault: str = "") -> AbstractContextManager[int]:
    """Runs HAProxy in front of two ports, which take turns, and yields its own port."""
    return configured(KINDS["haproxy"], f"{BALANCED}\n    {fault}", directory, upstream=first, second=second)


@contextlib.contextmanager
def configured(kind: ProxyKind, lines: str, directory: Path, **places: object) -> Iterator[int]:
    """Runs a proxy with lines of its own in its configuration, and yields its port."""
    directory.mkdir()
    port = free_port()
    fill = {"directory": directory, "port": port, "modules": MODULES, **places}
    file = directory / kind.file
    for name, text in {kind.file: kind.configuration, **kind.others}.items():
        (directory / name).write_text(text.format(**fill, fault=lines.format(**fill)))
    with (directory / "output").open("wb") as output:
        process = subprocess.Popen(
            [part.format(directory=directory, file=file) for part in kind.command],
            env={
                **os.environ,
                "HOME": str(directory),
                "XDG_DATA_HOME": str(directory),
                "XDG_CONFIG_HOME": str(directory),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_ready(process, port, directory, kind)
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with its workers
        process.wait(timeout=WAIT)


def wait_ready(process: subprocess.Popen[bytes], port: int, directory: Path, kind: ProxyKind) -> None:
    """Waits until a proxy listens, and knows where requests go.

    Raises:
        RuntimeError: It doesn't.
    """
    deadline = time.monotonic() + START
    while True:
        with contextlib.suppress(OSError, httpx.HTTPError):
            if knows_its_way(kind, port):
                return
        if process.poll() is not None or time.monotonic() > deadline:
            logs = [path.read_text() for path in (directory / "output", directory / "error.log") if path.exists()]
            raise RuntimeError("\n".join(["the proxy did not start:", *logs]))
        time.sleep(0.01)


def knows_its_way(kind: ProxyKind, port: int) -> bool:
    """Tells whether a proxy that listens answers otherwise than one that is lost."""
    if kind.lost:
        return kind.lost not in httpx.get(f"{kind.scheme}://127.0.0.1:{port}", verify=False, timeout=1).content
    socket.create_connection(("127.0.0.1", port), timeout=1).close()
    return True
