"""The card says all that is known of a model, in Markdown that the hub and a reader understand."""

import torch
import yaml  # comes with transformers

import tiny
from ladle.storage.card import model_card
from ladle.storage.model_folder import load_parts, save_parts
from ladle.storage.parts import ModelParts

INFO = {
    "summary": "Restaurant descriptions from attributes.",
    "licence": "CC-BY-SA-4.0",
    "language": "en",
    "tags": ["data-to-text", "ladle"],
    "data": [
        {"name": "E2E", "rows": 35742, "licence": "CC BY-SA 4.0", "attribution": "Novikova et al. 2017"},
        "and a list of names",
    ],
    "attribution": ["J. Novikova, O. Dusek, V. Rieser: The E2E Dataset"],
    "recipe": "recipes/e2e.toml",
    "minutes": 61.5,
    "hardware": "two CPU cores",
    "figures": [
        {"metric": "BLEU", "value": 61.23456, "interval": [59.5, 63], "n": 315, "seed": 0, "sampler": "dpmpp_2m_sde",
         "steps": 32, "command": "ladle evaluate a | b"},
        {"metric": "distinct", "value": 0.99, "n": 1000},
    ],
    "limits": ["Restaurants only."],
}  # fmt: skip


def front_matter(card: str) -> dict[str, object]:
    start, head, _ = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(head)


def rows_of(card: str, section: str) -> list[list[str]]:
    """The cells of the table in a section, without its second line."""
    body = card.split(f"## {section}\n\n")[1].split("\n\n")[0]
    lines = [line.replace("\\|", "&") for line in body.splitlines()]
    return [[cell.strip() for cell in line.strip("|").split("|")] for i, line in enumerate(lines) if i != 1]


def test_the_front_matter_is_what_the_hub_reads(parts: ModelParts) -> None:
    """Licence, language and tags are how a model is found and whether it may be used."""
    parts.info = INFO
    values = front_matter(model_card(parts, base="base-en"))
    assert values["license"] == "cc-by-sa-4.0"
    assert values["language"] == ["en"]
    assert values["tags"] == ["ladle", "latent-diffusion", "text-generation", "data-to-text"]
    assert values["base_model"] == "base-en"
    assert "base_model" not in front_matter(model_card(parts))


def test_names_that_yaml_would_misread_stay_texts(parts: ModelParts) -> None:
    """YAML reads `no` (Norwegian) as False, and a colon as a mapping."""
    parts.info = {"language": "no", "tags": ["a: b", "x\ny", "ünï"]}
    values = front_matter(model_card(parts))
    assert values["language"] == ["no"]
    assert values["tags"][-3:] == ["a: b", "x\ny", "ünï"]  # type: ignore[index]


def test_data_licence_attribution_and_recipe_are_told(parts: ModelParts) -> None:
    """Shipped models rest on data whose licence asks for a name."""
    parts.info = INFO
    card = model_card(parts)
    assert "* **E2E**; rows: 35742; licence: CC BY-SA 4.0; attribution: Novikova et al. 2017" in card
    assert "* and a list of names" in card
    assert "Weights: CC-BY-SA-4.0." in card and "* J. Novikova, O. Dusek, V. Rieser: The E2E Dataset" in card
    assert "* recipe: `recipes/e2e.toml`" in card
    assert "* minutes: 61.5" in card and "* hardware: two CPU cores" in card
    assert "* Restaurants only." in card


def test_each_figure_stands_with_how_it_was_measured(parts: ModelParts) -> None:
    """A figure without n, seed, sampler and steps is a claim."""
    parts.info = INFO
    rows = rows_of(model_card(parts), "Figures")
    assert rows[0] == ["metric", "value", "interval", "n", "seed", "sampler", "steps", "command"]
    assert rows[1] == ["BLEU", "61.23", "59.5 to 63", "315", "0", "dpmpp_2m_sde", "32", "ladle evaluate a & b"]
    assert rows[2] == ["distinct", "0.99", "", "1000", "", "", "", ""]
    parts.info = {"figures": {"BLEU": 61.0, "empty": {"value": 0, "n": 10}}}
    assert rows_of(model_card(parts), "Figures") == [["metric", "value", "n"], ["BLEU", "61", ""], ["empty", "0", "10"]]


def test_the_parameters_add_up(parts: ModelParts) -> None:
    """The table leaves no part out: its counts are those of the modules."""
    rows = rows_of(model_card(parts), "Parts")[1:]
    assert parts.diffusion is not None
    modules: list[torch.nn.Module] = [parts.autoencoder, parts.diffusion]
    total = sum(parameter.numel() for module in modules for parameter in module.parameters())
    assert sum(int(row[2].replace(",", "")) for row in rows) == total


def test_use_follows_what_the_model_can(parts: ModelParts) -> None:
    """No command is shown that the model would refuse."""
    card = model_card(parts)
    sample = "ladle sample --model PATH_TO_THIS_FOLDER"
    assert f'{sample} -n 8 --label "bad"' in card and f"{sample} --source" in card
    assert "`dpmpp_2m_sde`, 4 steps" in card and "guidance scale 1.5" in card
    parts.sampling = parts.sampling.override(
        conditional={"noise_scale": 0.7, "stop_time": 0.4}, unconditional={"stop_time": 0.2}
    )
    assert "noise scale 0.7 and stop at diffusion time 0.4 (1 and 0.2 without a condition)" in model_card(parts)
    assert "| condition encoder | label, source |" in card
    only = tiny.tiny_diffusion(parts.autoencoder, labels=())
    assert "| condition encoder | source |" in model_card(ModelParts("only", parts.autoencoder, only))
    alone = model_card(ModelParts("base", parts.autoencoder))
    assert "ladle sample" not in alone and "generate" not in alone.split("## Use")[1]
    assert "ladle reconstruct --model PATH_TO_THIS_FOLDER texts.txt -o -" in alone
    plain = model_card(
        ModelParts("plain", parts.autoencoder, tiny.tiny_diffusion(parts.autoencoder, labels=(), source=False))
    )
    assert "--label" not in plain and "--source" not in plain and "conditions: none" in plain
    assert f"longer than {tiny.MAX_TOKENS} tokens" in plain


def test_the_python_of_the_card_is_python(parts: ModelParts) -> None:
    """A name or a label may hold anything; the block must still parse."""
    parts.name = 'it\'s "quoted"\nname'
    card = model_card(parts)
    compile(card.split("```python\n")[1].split("```")[0], "card", "exec")
    assert card.count('\n# it\'s "quoted" name\n') == 1


def test_the_card_is_saved_with_the_model(parts: ModelParts, tmp_path) -> None:
    """README.md of the folder is the card, and the same again after loading and saving."""
    parts.info = INFO
    save_parts(parts, tmp_path / "m")
    assert (tmp_path / "m" / "README.md").read_text(encoding="utf-8") == model_card(parts)
    loaded = load_parts(tmp_path / "m")
    assert model_card(loaded) == model_card(parts)
