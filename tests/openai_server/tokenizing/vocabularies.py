"""Small tokenizers of the usual kinds, each trained on a few sentences."""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SENTENCES = (
    "The quick brown fox jumps over the lazy dog, and then it sleeps.",
    "A user asks a question, and the assistant answers: Grüße, 世界!",
    "def main():\n    return 42\n",
    "You are a helpful assistant.",
)
BOS, EOS, USER, THINK = "<s>", "</s>", "<|user|>", "<think>"
CONTROL = [BOS, EOS, USER]


def byte_level() -> Tokenizer:
    """As in Llama 3 and Qwen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return _with_added(tokenizer)


def metaspace(scheme: str = "first") -> Tokenizer:
    """As in Llama 2: a space begins the text, and bytes stand for unknown characters."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    # The trainer adds all special tokens, but the bytes aren't added tokens.
    bare = Tokenizer(tokenizer.model)
    bare.pre_tokenizer, bare.decoder = tokenizer.pre_tokenizer, tokenizer.decoder
    bare.add_special_tokens(["<unk>"])
    return _with_added(bare)


def prepended() -> Tokenizer:
    """As in older files of Llama 2: the normalizer adds the space, to each part of a text."""
    tokenizer = metaspace()
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def unigram() -> Tokenizer:
    """As in T5: its vocabulary contains the control tokens as pieces."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<unk>", *CONTROL, THINK], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return _with_added(tokenizer)


def word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(
        SENTENCES, trainers.WordLevelTrainer(special_tokens=["<unk>", *CONTROL, THINK], show_progress=False)
    )
    return _with_added(tokenizer)


def word_piece() -> Tokenizer:
    """As in BERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=["<unk>", *CONTROL], show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return _with_added(tokenizer)


KINDS = {
    "byte level": byte_level,
    "metaspace, first": metaspace,
    "metaspace, always": lambda: metaspace("always"),
    "prepended": prepended,
    "unigram": unigram,
    "word level": word_level,
    "word piece": word_piece,
}


def _with_added(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in CONTROL])
    tokenizer.add_tokens([AddedToken(THINK, normalized=False), AddedToken("    ", normalized=False)])
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, bos), (EOS, eos)]
    )
    return tokenizer


def folder_with(tokenizer: Tokenizer, folder: Path) -> Path:
    """Writes the `tokenizer.json` to the folder, and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path
