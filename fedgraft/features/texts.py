"""From texts of any length to rows of tokens, those of like length together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from fedgraft.data import cache
from fedgraft.features.inputs import Batches, Read
from fedgraft.progress import report

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from fedgraft.data.samples import Samples
    from fedgraft.models.backbone import Backbone
    from fedgraft.models.info import BackboneInfo
    from fedgraft.models.preprocessing import TextPreprocessing

WINDOW = 4096
"""Texts that are cut into tokens at a time, and then sorted by their length."""

TOKENS_AT_ONCE = 2048
"""Tokens of a batch on a CPU, the filling included; see `PIXELS_AT_ONCE`."""


def batches(backbone: Backbone, read: Read, indices: NDArray[np.int64], batch_size: int) -> Batches:
    """Yield `(indices, tokens (n, T, 2) int64)` of each batch; T is the length of its longest text.

    Texts of like length come together, longest first, so that little is filled up. What an encoder makes of a text
    depends on the others of its batch by rounding only.
    """
    device = next(backbone.parameters()).device
    tokenizer = tokenizer_of(backbone)
    for first in range(0, len(indices), WINDOW):
        window = indices[first : first + WINDOW]
        rows = tokens_of(tokenizer, read(window))
        order = np.argsort([-len(row) for row in rows], kind="stable")
        start = 0
        while start < len(order):
            longest = len(rows[order[start]])
            count = min(batch_size, max(1, TOKENS_AT_ONCE // longest)) if device.type == "cpu" else batch_size
            chosen = order[start : start + count]
            yield window[chosen], filled([rows[number] for number in chosen.tolist()]).to(device)
            start += count


def tell_of_cut_texts(samples: Samples, info: BackboneInfo, backbone: Callable[[], Backbone]) -> None:
    """Report how many texts are longer than what a backbone reads; they are counted once, and remembered.

    Args:
        samples: texts.
        info: the backbone.
        backbone: returns it, if its tokenizer is needed.
    """
    steps = cast("TextPreprocessing", info.preprocessing)
    key = cache.digest_of("cut-texts-1", steps.key(), samples.sample_digests().tobytes())
    kept = cache.remembered("texts", key, "", lambda: {"count": np.array(_num_cut(samples, backbone()))})
    count = int(kept["count"])
    if count:
        told = f"of {samples.num_samples:,} texts {'is' if count == 1 else 'are'}"
        report(
            "note",
            text=f"{count:,} {told} longer than {steps.max_length:,} tokens; only their beginning is read "
            "(backbone.max_length)",
        )


def _num_cut(samples: Samples, backbone: Backbone) -> int:
    tokenizer, every = tokenizer_of(backbone), np.arange(samples.num_samples, dtype=np.int64)
    parts = (samples.texts(every[first : first + WINDOW]) for first in range(0, len(every), WINDOW))
    return sum(bool(found.overflowing) for part in parts for found in tokenizer.encode_batch_fast(part))


def tokenizer_of(backbone: Backbone) -> Tokenizer:
    """Return a backbone's tokenizer, which reads as many tokens of a text as the backbone does."""
    from tokenizers import Tokenizer

    from fedgraft.models.text_encoders import TOKENIZER

    buffer = cast("Tensor", getattr(backbone.model, TOKENIZER))
    tokenizer = Tokenizer.from_str(buffer.cpu().numpy().tobytes().decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(cast("TextPreprocessing", backbone.info.preprocessing).max_length)
    return tokenizer


def tokens_of(tokenizer: Tokenizer, texts: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return the numbers of each text's tokens, one at least."""
    rows = [np.array(found.ids, dtype=np.int64) for found in tokenizer.encode_batch_fast(list(texts))]
    return [row if len(row) else np.zeros(1, dtype=np.int64) for row in rows]


def filled(rows: Sequence[NDArray[np.int64]]) -> Tensor:
    """Return rows of tokens as `(n, T, 2)`: numbers, and 1 where there is a token; shorter ones are filled up."""
    import torch

    result = torch.zeros(len(rows), max(map(len, rows)), 2, dtype=torch.int64)
    for number, row in enumerate(rows):
        result[number, : len(row), 0] = torch.from_numpy(row)
        result[number, : len(row), 1] = 1
    return result
