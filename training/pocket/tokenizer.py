"""Pocket's own small BPE tokenizer, in CLIP's files: every word of the domain is one token.

The tokenizer is read from ``vocabulary/``. Token ids belong to a checkpoint and to every pool, and training merges is
not reproducible (``tokenizers`` breaks ties differently in each process), so the files are written once, by
``python -m training.pocket.tokenizer --write``, and committed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from training.pocket import captions

MAX_LENGTH = 64
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
FOLDER = Path(__file__).parent / "vocabulary"


def train(words: list[str]) -> tuple[dict[str, int], list[str]]:
    """Learn merges until each word is one piece; returns token ids and merges."""
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        special_tokens=[],
        show_progress=False,
    )
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bpe.train_from_iterator([[w] * 8 for w in words], trainer)
    learned = json.loads(bpe.to_str())["model"]["merges"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in learned]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(a + "</w>" for a in alphabet), *("".join(m.split(" ")) for m in merges)]
    return {piece: i for i, piece in enumerate([*dict.fromkeys(pieces), BOS, EOS])}, merges


def build() -> CLIPTokenizer:
    """Return the committed tokenizer."""
    tokenizer = CLIPTokenizer(
        vocab=str(FOLDER / "vocab.json"),
        merges=str(FOLDER / "merges.txt"),
        bos_token=BOS,
        eos_token=EOS,
        unk_token=EOS,
        pad_token=EOS,
    )
    tokenizer.model_max_length = MAX_LENGTH
    return tokenizer


def main() -> None:
    """Write a new vocabulary; every pool and checkpoint made before is void then."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", required=True)
    parser.parse_args()
    vocab, merges = train(captions.vocabulary())
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False) + "\n", encoding="utf-8")
    (FOLDER / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
