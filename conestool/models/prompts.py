"""Prompts on their way into the model: conditioning, what a text encoder cuts, and words that can be identifiers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from conestool._names import pick_identifier
from conestool.errors import UsageError
from conestool.models.conditioning import Conditioning, MicroConditioning
from conestool.models.model import Model

_RARE_WORD = re.compile(r"[b-df-hj-np-tv-xz]{3}")
"""Three consonants and no vowel: seldom a word in any language written in Latin letters."""
_MIN_SHARED_IDENTIFIERS = 8


def encode(model: Model, prompts: Sequence[str], batch: int = 32) -> Conditioning:
    """Conditioning of `prompts` (may include ""), one row each, on the denoiser's device and in its dtype.

    Its micro-conditioning is that of uncropped pictures of the model's own size; `with_micro_conditioning` replaces it.
    """
    chunks = [list(prompts[start : start + batch]) for start in range(0, len(prompts), batch)]
    parts = [model.family.encode(model.pipe, chunk) for chunk in chunks]
    uncropped = micro_conditioning(model, [MicroConditioning.uncropped(model.defaults.size)] * len(prompts))
    return Conditioning.cat(parts).to(model.device, model.dtype).with_micro_conditioning(uncropped)


def micro_conditioning(model: Model, crops: Sequence[MicroConditioning]) -> Mapping[str, Tensor]:
    """The micro-conditioning that the denoiser takes, by name, a row for each of `crops`; on its device."""
    return {key: value.to(model.device) for key, value in model.family.micro_conditioning(model.pipe, crops).items()}


def truncated_text(model: Model, prompt: str) -> str:
    """The end of `prompt` that a text encoder will not read, "" if it reads all; the longest over several encoders."""
    return max(
        (
            _truncated_by(tokenizer, max_tokens, prompt)
            for tokenizer, max_tokens in model.family.length_limits(model.pipe)
        ),
        key=len,
    )


def _truncated_by(tokenizer: Any, max_tokens: int, prompt: str) -> str:
    """What a tokenizer cuts that keeps `max_tokens`, as typed; as decoded in one that keeps no offsets."""
    kept = max_tokens - tokenizer.num_special_tokens_to_add()
    ids = _token_ids(tokenizer, prompt)
    if len(ids) <= kept:
        return ""
    if not tokenizer.is_fast:
        return str(tokenizer.decode(ids[kept:]))
    offsets = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False).offset_mapping
    return prompt[offsets[kept][0] :].strip()


def _token_ids(tokenizer: Any, text: str) -> list[int]:
    """All token ids of `text`, neither padded nor cut, without special tokens."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return ids


def is_one_token(model: Model, word: str) -> bool:
    """Whether every text encoder reads `word` as a single token that it knows."""
    return all(_known_token(tokenizer, word) for tokenizer in model.family.tokenizers(model.pipe))


def _known_token(tokenizer: Any, word: str) -> bool:
    """Whether one tokenizer reads `word` as a single token other than the unknown one."""
    ids = _token_ids(tokenizer, word)
    return len(ids) == 1 and ids[0] != tokenizer.unk_token_id


def identifiers(model: Model) -> list[str]:
    """Words that can stand for a subject: those the model's folder names, else rare single tokens, rarest first.

    Rare (our choice): three consonants, in the last third of the vocabulary, which byte-pair encoding orders by
    frequency. DreamBooth (Ruiz et al. 2023, section 3.2) argues for such tokens: they bring little meaning along.
    Of the first tokenizer's words, those that all others know as well, unless these are too few to tell names apart.
    """
    named = model.settings.get("identifiers")
    if isinstance(named, list) and named:
        return [str(word) for word in named]
    first, *others = model.family.tokenizers(model.pipe)
    floor, words = len(first.get_vocab()) * 2 // 3, _whole_words(first)
    rare = [word for word, index in words.items() if index >= floor and _RARE_WORD.fullmatch(word)]
    rare.sort(key=lambda word: -words[word])
    shared = set(rare).intersection(*map(_whole_words, others))
    return [word for word in rare if word in shared or len(shared) < _MIN_SHARED_IDENTIFIERS]


def _whole_words(tokenizer: Any) -> dict[str, int]:
    """The tokens that are words by themselves, with their ids: `dog</w>` in CLIP's notation, `▁dog` in T5's."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    after = {token.removesuffix("</w>"): index for token, index in vocabulary.items() if token.endswith("</w>")}
    return after or {token[1:]: index for token, index in vocabulary.items() if token.startswith("▁")}


def choose_identifier(model: Model, name: str) -> str:
    """The identifier for a concept of that name: the same one every time, seldom the same for two names.

    UsageError if the model offers no word that is not in the name.
    """
    word = pick_identifier(identifiers(model), name)
    if word is None:
        raise UsageError(f"{model.id} has no rare word left that can be an identifier", "choose one with --identifier")
    return word
