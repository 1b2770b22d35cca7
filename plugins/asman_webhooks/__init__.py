"""Carries webhooks out over HTTP, signed where a secret is set, and never to an address that is not public.

Needs the extra ``webhooks``. Without it the hook passes, so a server without the extra refuses callbacks by name;
but settings of webhooks that nothing could honour stop the server, because their author counts on them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from asman.errors import ConfigError
from asman.hookspecs import hookimpl

if TYPE_CHECKING:
    from asman.abc import Deliverer
    from asman.config import Config

__all__ = ["asman_deliverer"]

_log = logging.getLogger(__name__)
_INSTALL = 'pip install "asman[webhooks]"'


@hookimpl
def asman_deliverer(config: Config) -> Deliverer | None:
    """A deliverer that follows ``webhook_allow`` and ``webhook_secret``; None without the extra.

    Errors: ConfigError for a network or secret that cannot be read, or for one that is set without the extra.
    """
    try:
        import httpcore as _httpcore  # noqa: F401
        import httpx as _httpx  # noqa: F401
        import standardwebhooks as _standardwebhooks  # noqa: F401
    except ImportError as error:
        if config.webhook_secret or config.webhook_allow:
            text = f"webhook settings are set, but webhooks cannot be delivered: {error}; try: {_INSTALL}"
            raise ConfigError(text, hint=_INSTALL) from error
        _log.info("callbacks will be refused", extra={"reason": str(error), "try": _INSTALL})
        return None
    from asman_webhooks.deliver import HttpDeliverer
    from asman_webhooks.guard import Guard, read_networks

    return HttpDeliverer(guard=Guard(allow=read_networks(config.webhook_allow)), secret=config.webhook_secret)
