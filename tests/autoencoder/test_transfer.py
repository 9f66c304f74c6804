"""A trained autoencoder's knowledge in one with another vocabulary."""

import pytest
import torch

import tiny
from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.backbone import Backbone, train_tokenizer
from ladle.autoencoder.reconstruction import ReconstructionConfig, reconstruction_loss
from ladle.autoencoder.transfer import pieces_matrix, transfer
from ladle.errors import UserError

OTHER = ["the weather in the north was cold and bright"] * 20


def other(given: TextAutoencoder, **changes: object) -> TextAutoencoder:
    torch.manual_seed(9)
    config = given.config.model_copy(update=changes)
    return TextAutoencoder(
        config, Backbone.build(config.backbone, config.max_tokens, train_tokenizer(OTHER, 320))
    ).eval()


def test_an_own_token_gets_the_mean_of_its_pieces() -> None:
    """By hand, through the text of the token; a token that both know keeps its embedding."""
    given = tiny.tiny_autoencoder()
    own = other(given)
    transfer(given, own)
    old, new = (a.backbone.model.get_input_embeddings().weight for a in (given, own))
    tokenizers = given.backbone.tokenizer, own.backbone.tokenizer
    token = tokenizers[1].convert_tokens_to_ids("Ġweather")
    assert token is not None
    pieces = tokenizers[0]("weather")["input_ids"][:-1]
    assert len(pieces) > 1
    torch.testing.assert_close(new[token], old[pieces].mean(0))
    for name in ("</s>", "Ġthe", "b"):
        one, another = (tokenizer.convert_tokens_to_ids(name) for tokenizer in tokenizers)
        torch.testing.assert_close(new[another], old[one])
    assert given.parallel_decoder is not None and own.parallel_decoder is not None
    torch.testing.assert_close(own.parallel_decoder.bias[token], given.parallel_decoder.bias[pieces].mean(0))


def test_with_the_same_vocabulary_nothing_changes() -> None:
    """Every tensor is taken over, normaliser and positions among them: the same losses."""
    given = tiny.tiny_autoencoder().eval()
    torch.manual_seed(9)
    own = TextAutoencoder(
        given.config, Backbone.build(given.config.backbone, given.config.max_tokens, given.backbone.tokenizer)
    ).eval()
    batch, config = tiny.tokens(given), ReconstructionConfig()
    before = [float(v) for v in reconstruction_loss(own, batch, config)[1].values()]
    transfer(given, own)
    expected = reconstruction_loss(given, batch, config)[1]
    assert before != [float(v) for v in expected.values()]
    torch.testing.assert_close(reconstruction_loss(own, batch, config)[1], expected)


def test_only_what_belongs_to_tokens_is_mixed() -> None:
    """Also where a layer happens to be as wide as the vocabulary is large: a matrix of 320 rows stays as it is."""
    given = tiny.tiny_autoencoder()
    own = other(given)
    for autoencoder in (given, own):
        autoencoder.bottleneck.register_buffer("probe", torch.randn(320, 3))
    transfer(given, own)
    assert len(given.backbone.tokenizer) == 320
    torch.testing.assert_close(own.bottleneck.probe, given.bottleneck.probe, atol=0, rtol=0)


def test_other_widths_are_refused() -> None:
    """Nothing of the one would mean anything in the other."""
    given = tiny.tiny_autoencoder()
    own = other(given, backbone=given.config.backbone.model_copy(update={"width": 2 * given.backbone.width}))
    with pytest.raises(UserError, match="its width is 32, but autoencoder.backbone.width is 64"):
        transfer(given, own)


def test_the_rows_of_the_matrix_add_up() -> None:
    """Each row is a mean over pieces, also where one piece comes twice."""
    tokenizers = tiny.tiny_tokenizer(), train_tokenizer(OTHER, 320)
    matrix = pieces_matrix(*tokenizers)
    assert matrix.shape == (len(tokenizers[1]), len(tokenizers[0]))
    torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix)))
