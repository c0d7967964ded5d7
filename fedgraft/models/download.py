"""Pretrained weights over the network: one quick try, no telemetry, and words on what to do without one."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedgraft.errors import MissingWeightsError, ModelError
from fedgraft.models.catalogue import hub_cache, torch_checkpoints

CONNECT_SECONDS = 8.0


def no_telemetry() -> None:
    """Switch off huggingface_hub's reports; to be called before its first import."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Give up on a server that doesn't answer (torch hub itself would wait for ever) and keep stdout clean."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout may be somebody's --json
            yield
    finally:
        socket.setdefaulttimeout(before)


def from_hub(backbone: str, repository: str, filename: str | None) -> Path:
    """Return a weights file of the Hugging Face hub, from its cache or downloaded.

    Args:
        backbone: Its name in the settings, for the error.
        repository: `owner/name`, optionally with `@revision`.
        filename: None: `model.safetensors`, or else `pytorch_model.bin`.

    Raises:
        ModelError: not in the cache, and the hub can't be reached or refuses.
    """
    no_telemetry()
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    constants.HF_HUB_DISABLE_TELEMETRY = True  # another library may have imported it before us
    repository, _, revision = repository.partition("@")
    where: Any = {"revision": revision or None, "cache_dir": hub_cache()}
    candidates = (filename,) if filename else ("model.safetensors", "pytorch_model.bin")
    for candidate in candidates:
        cached = huggingface_hub.try_to_load_from_cache(repository, candidate, **where)
        if isinstance(cached, str):
            return Path(cached)
    url = huggingface_hub.hf_hub_url(repository, candidates[0], revision=revision or None)
    if not constants.HF_HUB_OFFLINE:
        try:
            _knock(url)
        except OSError as error:
            raise offline(backbone, url, error, hub=repository) from error
    for candidate in candidates:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, candidate, **where))
        except LocalEntryNotFoundError as error:  # also an EntryNotFoundError, but of the cache
            raise offline(backbone, url, error, hub=repository) from error
        except EntryNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise offline(backbone, url, error, hub=repository) from error
    raise ModelError(f"{repository} on the Hugging Face hub has none of {', '.join(candidates)}")


def offline(backbone: str, url: str, cause: Exception, hub: str | None = None) -> MissingWeightsError:
    """Return the error that says what to download and where to put it."""
    if hub is not None:
        place = f"`hf download {hub}` there fills the cache {hub_cache()}, which can be copied"
    else:
        place = f"put the file into {torch_checkpoints()}"
    reason = next(iter(str(cause).splitlines()), type(cause).__name__)
    return MissingWeightsError(
        f"the pretrained weights of {backbone} aren't on this machine and can't be downloaded from {url} ({reason}). "
        f"On a machine with a network: {place}; or give a local file as `weights: /path/to/file.safetensors`; "
        "or use a backbone whose weights are installed, such as bundled:efficientnet_lite0"
    )


def _knock(url: str) -> None:
    """Try once: huggingface_hub itself tries six times, for 23 s and more, before it says that it is offline.

    Raises:
        OSError: nobody answers.
    """
    if not url.startswith("https://"):
        return  # a mirror of one's own: let the library speak with it
    with contextlib.suppress(urllib.error.HTTPError):  # an answer, if not the wished one; the library knows more
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=CONNECT_SECONDS).close()
