"""What keeps the doctor from telling anything, as a line that says what to do."""

from __future__ import annotations

import ssl

import httpx

from litestar_safe_sse._doctor.contract import PATH
from litestar_safe_sse._runtime.base import origins
from litestar_safe_sse.exceptions import SSEError

__all__ = ("CannotTellError", "explain_failure", "explain_status")


class CannotTellError(SSEError):
    """Nothing could be found out; the message is one line, and says what to do."""


def explain_failure(url: str, error: Exception) -> CannotTellError:
    """Says what to do where there was no answer.

    Args:
        url: What was asked.
        error: What has come instead.
    """
    for cause in origins(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return CannotTellError(
                f"{url}: the certificate is not trusted ({cause.verify_message}); use the name that it is made for, "
                "have the server send its whole chain, or name the authority by --cacert FILE"
            )
        if isinstance(cause, ssl.SSLError):
            return CannotTellError(f"{url}: TLS fails ({cause.reason}); does this port speak it? Else give http://")
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        return CannotTellError(
            f"{url}: no answer within 10 s; see whether the application runs, and what its proxy logs"
        )
    return CannotTellError(
        f"{url}: cannot be reached ({error or type(error).__name__}); correct the URL, or start the server"
    )


def explain_status(url: str, response: httpx.Response) -> CannotTellError:
    """Says what to do where the answer is not the route's."""
    status = response.status_code
    if response.is_redirect:
        target = response.headers.get("Location", "nowhere").partition(PATH)[0]
        return CannotTellError(
            f"{url}: redirects to {target} ({status}), which no EventSource of another origin may follow; give that URL"
        )
    if status in (401, 403):
        ours = "SafeSSEConfig(doctor=...)" in response.text
        if ours:
            return CannotTellError(
                f"{url}: another secret is wanted ({status}); give that of SafeSSEConfig(doctor=...), by "
                "--secret or LITESTAR_SSE_SECRET"
            )
        return CannotTellError(
            f"{url}: refuses the doctor ({status}); give what it wants by --header 'Authorization: ...'"
        )
    if status in (502, 503, 504):
        return CannotTellError(
            f"{url}: the proxy answers {status}, since it has no answer of the application; start that, or "
            "correct the address that the proxy passes requests on to"
        )
    if status == 404:
        return CannotTellError(
            f"{url}: has no route for the doctor (404 at {PATH}); set SafeSSEConfig(doctor=...) and "
            "give the URL of the application's root"
        )
    kind = response.headers.get("Content-Type", "nothing")
    return CannotTellError(
        f"{url}: answers {status} and {kind} where the doctor's route should be; give the URL of the root "
        "of an application with SafeSSEConfig(doctor=...)"
    )
