"""What is read of source texts: another encoder's states where one is named, as much as that one has places for."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from ladle.autoencoder.reconstruction import ReconstructionConfig
from ladle.conditioning.config import ConditionConfig, SourceConfig
from ladle.conditioning.source_text import SourceEncoder, SourceReader, learns_sources
from ladle.conditioning.store import ConditionStore
from ladle.data.row_portions import in_every_epoch
from ladle.data.rows import Row
from ladle.diffusion.model import LatentDiffusionModel
from ladle.errors import UserError
from ladle.pipeline import LatentDiffusion
from ladle.storage.model_folder import load_parts, save_parts
from ladle.storage.parts import ModelParts, list_parts
from ladle.training.optimiser import TrainingConfig
from ladle.training.stages.autoencoder import AutoencoderStage

FAMILIES = tiny.PRETRAINED | {"bert": tiny.bert_folder}
SOURCE = ConditionConfig(source=SourceConfig())
LONG = " ".join(["the old cat sat on a mat."] * 30)


def parts_with_encoder(folder: Path) -> ModelParts:
    """A tiny model whose sources are read by the encoder of `folder`."""
    parts = tiny.tiny_parts()
    parts.source_encoder = SourceEncoder.from_pretrained(folder)
    condition = ConditionConfig(labels=tiny.LABELS, source=SourceConfig(encoder=str(folder)))
    reader = SourceReader(parts.autoencoder, condition, parts.source_encoder)
    given = parts.diffusion
    assert given is not None
    parts.diffusion = LatentDiffusionModel(parts.autoencoder, given.config, condition, reader.dim).eval()
    torch.nn.init.normal_(parts.diffusion.denoiser.output.weight, std=0.2)
    return parts


@pytest.mark.parametrize("family", list(FAMILIES))
def test_states_are_those_of_the_named_encoder(family: str, tmp_path: Path) -> None:
    """As transformers gives them, padding beside; nothing of it is trained, no decoder is run."""
    from transformers import AutoModel

    folder = FAMILIES[family](tmp_path / family)
    reader = SourceReader(tiny.tiny_autoencoder(), SOURCE, SourceEncoder.from_pretrained(folder))
    tokens = reader.tokenize(["the cat", "an owl hid in the old barn"])
    states, mask = reader.read(tokens)
    model = AutoModel.from_pretrained(folder).eval()
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model
    with torch.no_grad():
        alone = encoder(**{name: tensor[:1, : int(mask[0].sum())] for name, tensor in tokens.items()})
    torch.testing.assert_close(states[0][mask[0]], alone.last_hidden_state[0], atol=1e-5, rtol=1e-4)
    assert reader.dim == states.shape[-1] == (24 if family == "bert" else 32)
    assert reader.encoder is not None and not any(p.requires_grad for p in reader.encoder.parameters())


def test_a_t5_brings_no_decoder_along(tmp_path: Path) -> None:
    """Half of its weights would be carried for nothing."""
    encoder = SourceEncoder.from_pretrained(tiny.t5_folder(tmp_path / "t5"))
    assert not any("decoder" in name for name, _ in encoder.named_parameters())


def test_a_model_with_its_own_source_encoder_is_complete(tmp_path: Path) -> None:
    """Saved and loaded without the folder that it came from; another source gives other texts."""
    folder = tiny.bert_folder(tmp_path / "bert")
    parts = parts_with_encoder(folder)
    save_parts(parts, tmp_path / "model")
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink()
    again = load_parts(tmp_path / "model")
    texts = ["the cat", "an owl hid"]
    expected, actual = (p.reader().read(p.reader().tokenize(texts))[0] for p in (parts, again))
    assert torch.equal(expected, actual)
    assert "source encoder" in [part.name for part in list_parts(again)]
    model = LatentDiffusion(again)
    conditions = ConditionStore(again.reader(), [None, None], texts).gather(torch.tensor([0, 1]))
    diffusion = again.diffusion
    assert diffusion is not None
    zt = torch.randn(1, 4, again.autoencoder.latent_dim).expand(2, -1, -1)
    denoise = diffusion.denoise(torch.ones(2, 4, dtype=torch.bool), diffusion.condition.encode(conditions, 2))
    one, other = denoise(zt, diffusion.schedule.level(torch.full((2,), 0.5)))
    assert not torch.allclose(one, other)
    assert len(model.generate(source=texts)) == 2


def test_a_source_may_be_longer_than_a_text(tmp_path: Path) -> None:
    """A pre-trained encoder has places for it, up to what the recipe asks for; one from nothing has as many as a
    text, and latents are of a text."""
    pretrained = tiny.tiny_autoencoder(pretrained=str(tiny.bart_folder(tmp_path / "bart")))
    new = tiny.tiny_autoencoder()

    def reading(**source: Any) -> ConditionConfig:
        return ConditionConfig(source=SourceConfig(**source))

    def length(reader: SourceReader) -> int:
        return reader.read(reader.tokenize([LONG]))[0].shape[1]

    for asked, read in ((40, 40), (1000, 64)):  # 64 places
        assert length(SourceReader(pretrained, reading(max_tokens=asked))) == read
    assert length(SourceReader(new, reading(max_tokens=1000))) == tiny.MAX_TOKENS
    latents = reading(memory="latents", max_tokens=1000)
    assert length(SourceReader(new, latents)) == new.max_latents
    bert = SourceEncoder.from_pretrained(tiny.bert_folder(tmp_path / "bert", places=40))
    assert length(SourceReader(new, reading(max_tokens=1000), bert)) == 40


def test_an_autoencoder_learns_the_sources_that_it_reads(tmp_path: Path) -> None:
    """Not those that a frozen encoder reads: the paper's autoencoder of summaries has seen no article."""
    folder = str(tiny.bart_folder(tmp_path / "bart"))
    new, frozen = tiny.tiny_autoencoder(), tiny.tiny_autoencoder(pretrained=folder)
    unfrozen = tiny.tiny_autoencoder(pretrained=folder, trained="all")
    states, latents, other = SourceConfig(memory="states"), SourceConfig(memory="latents"), SourceConfig(encoder="bert")
    assert [learns_sources(part, states) for part in (new, frozen, unfrozen)] == [True, False, True]
    assert [learns_sources(part, latents) for part in (new, frozen, unfrozen)] == [True] * 3
    assert [learns_sources(part, other) for part in (new, frozen, unfrozen)] == [False] * 3
    rows = [Row(text=text, source="an article") for text in tiny.SENTENCES]
    for with_sources, count in ((True, len(rows) + 1), (False, len(rows))):
        stage = AutoencoderStage(
            new, in_every_epoch(rows), rows, TrainingConfig(steps=1), ReconstructionConfig(), with_sources
        )
        assert sorted(row for batch in stage.batches(0) for row in batch) == list(range(count))


def test_what_is_no_encoder_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot load the source encoder '.*empty'") as caught:
        SourceEncoder.from_pretrained(tmp_path / "empty")
    assert "\n" not in str(caught.value)
