"""Pocket's own small BPE tokenizer, in CLIP's files: every word of the domain is one token."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from training.pocket import captions

MAX_LENGTH = 32
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def build() -> CLIPTokenizer:
    """Train the merges on the vocabulary until each word is one piece."""
    words = captions.vocabulary()
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
    model = json.loads(bpe.to_str())["model"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    pieces = alphabet + [a + "</w>" for a in alphabet] + ["".join(m.split(" ")) for m in merges]
    pieces = [*dict.fromkeys(pieces), BOS, EOS]
    with tempfile.TemporaryDirectory() as folder:
        vocab_file, merges_file = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocab_file.write_text(json.dumps({p: i for i, p in enumerate(pieces)}))
        merges_file.write_text("\n".join(["#version: 0.2", *merges]) + "\n")
        tokenizer = CLIPTokenizer(
            vocab=str(vocab_file), merges=str(merges_file), bos_token=BOS, eos_token=EOS, unk_token=EOS, pad_token=EOS
        )
    tokenizer.model_max_length = MAX_LENGTH
    return tokenizer
