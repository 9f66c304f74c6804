"""What a backbone learns to write from the data: which signs, words and phrases."""

from ladle.autoencoder.backbone import Backbone
from ladle.autoencoder.lexicon import Lexicon, learnt_words
from ladle.autoencoder.loop import stepper_of
from ladle.autoencoder.phrases import TEXTS, WORTH, Phrases
from ladle.autoencoder.signs import alphabet_of, unlearnt, writable
from ladle.data.splits import Splits
from ladle.errors import UserError
from ladle.training.plan import Plan
from ladle.training.progress import Log
from ladle.training.warm_start import OTHER_SCRIPT


def learn_vocabulary(backbone: Backbone, plan: Plan, splits: Splits, log: Log) -> None:
    """Give the backbone the alphabet and the words of the data. Of a pre-trained one nobody knows them; what its
    tokenizer cannot write of the data is said, or refused.

    Raises UserError: a pre-trained tokenizer cannot write the script of the data.
    """
    texts, recipe = [row["text"] for row in splits.train], plan.recipe
    seen = alphabet_of(backbone.tokenizer, texts, backbone.max_tokens)
    pretrained = recipe.autoencoder.backbone.pretrained
    if pretrained is None:
        # (A start with a fixed code writes its own signs; the decoder of a plan learns to write as the data do.)
        keeps_signs = plan.start.keeps_autoencoder and not plan.start.autoencoder.is_plan
        known = backbone.alphabet if keeps_signs else frozenset[str]()
        if recipe.source.encoder is None:
            sources = [row["source"] for row in splits.train if row.get("source")]
            seen |= alphabet_of(backbone.tokenizer, sources, recipe.source.max_tokens)
        if splits.portions:  # later portions may hold other signs
            known = None
        backbone.alphabet = None if known is None else known | seen
        backbone.lexicon = _lexicon(backbone, plan, splits)
        held_out = [row["text"] for row in splits.valid]
        backbone.phrases = _phrases(backbone, texts, held_out, recipe.training.phrases)
    elif lost := unlearnt(texts, writable(backbone, seen)):
        said = f"'{pretrained}' cannot write {lost.characters:.1%} of the characters ({lost.examples})"
        if lost.characters > OTHER_SCRIPT:
            raise UserError(f"{said}; name another model with --backbone, or leave that option out")
        log(f"{said}, which {lost.texts:.1%} of the texts hold; these will be lost")


def _phrases(backbone: Backbone, texts: list[str], held_out: list[str], least: int) -> Phrases | None:
    """The phrases of texts that are spread evenly over the data. None: none are wanted, the decoder makes no use of
    drafts, or drafts would save too little on held-out texts."""
    if least == 0 or not stepper_of(backbone.model).ragged:
        return None

    def tokens(texts: list[str], most: int) -> list[list[int]]:
        chosen, longest = texts[:: max(1, -(-len(texts) // most))], backbone.max_tokens
        ids: list[list[int]] = backbone.tokenizer(chosen, truncation=True, max_length=longest)["input_ids"]
        return ids

    start = backbone.model.generation_config.decoder_start_token_id
    phrases = Phrases.learnt(tokens(texts, TEXTS), start, least)
    return phrases if phrases.passes(tokens(held_out, 500), start) <= WORTH else None


def _lexicon(backbone: Backbone, plan: Plan, splits: Splits) -> Lexicon | None:
    """The words of the data, and those that a start in the same language knows. None if later portions may hold
    others."""
    if splits.portions:
        return None
    start = plan.start.autoencoder.backbone.lexicon if plan.start.keeps_autoencoder else None
    known = () if start is None else start.words
    words = learnt_words((row["text"] for row in splits.train), (row["text"] for row in splits.valid), known)
    return None if words is None else Lexicon(words, backbone.tokenizer, backbone.alphabet)
