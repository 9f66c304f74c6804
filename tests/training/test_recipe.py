"""A recipe: TOML, `--data` and `--set` to one validated object; and the budget of each stage."""

from pathlib import Path
from typing import Any

import pytest

import tiny
from ladle.data.splits import Splits
from ladle.errors import UserError
from ladle.sampling.options import SamplingOptions
from ladle.storage.model_folder import save_parts
from ladle.training.plan import DEFAULT_MINUTES, STAGES, make_plan, stage_settings
from ladle.training.recipe import SAMPLING, Recipe, load_recipe, to_toml

HUB = """
name = "mine"
[data]
id = "someone/something"
subset = "clean"
source = "meaning"
text = "reference"
max_valid_rows = 7
[training]
minutes = 30
"""


def recipe_file(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def plan(**training: Any) -> Any:
    return Recipe.parse({"training": training}).training


# ------------------------------------------------------------------------------------------------ reading


def test_a_data_file_alone_is_a_recipe() -> None:
    """Everything else has a default; the model is called after the file."""
    recipe = load_recipe(data="some/reviews.csv.gz")
    assert (recipe.name, recipe.data.path, recipe.start) == ("reviews", "some/reviews.csv.gz", "auto")
    assert recipe == Recipe(name="reviews", data=recipe.data, sampling=SamplingOptions.parse(SAMPLING))


def test_a_recipe_says_what_it_says_and_the_rest_is_default(tmp_path: Path) -> None:
    """Also where it sets one key of a group that has others."""
    recipe = load_recipe(recipe_file(tmp_path, HUB + "[training.autoencoder]\nlatent_noise = 3.0\n"))
    assert (recipe.name, recipe.data.id, recipe.data.max_valid_rows) == ("mine", "someone/something", 7)
    assert recipe.training.autoencoder.latent_noise == 3
    assert recipe.training.autoencoder.share == Recipe().training.autoencoder.share
    assert recipe.training.diffusion == Recipe().training.diffusion


def test_a_file_takes_the_place_of_a_hub_data_set_with_its_columns(tmp_path: Path) -> None:
    """The hub set's column names say nothing of the file; what is no name of a column stays."""
    recipe = load_recipe(recipe_file(tmp_path, HUB), data="mine.jsonl")
    assert recipe.data.path == "mine.jsonl"
    assert (recipe.data.id, recipe.data.subset, recipe.data.source, recipe.data.text) == (None, None, None, None)
    assert recipe.data.max_valid_rows == 7
    assert recipe.name == "mine"


def test_columns_of_a_recipe_without_a_data_set_are_the_files(tmp_path: Path) -> None:
    """A recipe for data that everyone has to bring."""
    path = recipe_file(tmp_path, '[data]\ntext = "review"\nlabel = ""\n')
    data = load_recipe(path, data="a.csv").data
    assert (data.path, data.text, data.label) == ("a.csv", "review", "")


def test_columns_given_by_hand_are_the_last_word(tmp_path: Path) -> None:
    """`--label stars` comes as a setting; it must survive `--data`."""
    sets = ['data.label="stars"', "data.text=body"]
    data = load_recipe(recipe_file(tmp_path, HUB), data="a.csv", sets=sets).data
    assert (data.path, data.label, data.text, data.source) == ("a.csv", "stars", "body", None)


# ------------------------------------------------------------------------------------------------ --set


@pytest.mark.parametrize(
    ("item", "read"),
    [
        ("training.minutes=60", lambda r: r.training.minutes == 60),
        ("training.diffusion.optimiser.lr=1e-4", lambda r: r.training.diffusion.optimiser == {"lr": 1e-4}),
        ("autoencoder.bottleneck.regulariser=none", lambda r: r.autoencoder.bottleneck.regulariser == "none"),
        ("diffusion.schedule.shift = 3", lambda r: r.diffusion.schedule.shift == 3),
        ("start=nothing", lambda r: r.start == "nothing"),
        ('name="two words"', lambda r: r.name == "two words"),
        ("name=no", lambda r: r.name == "no"),
        ("data.label=", lambda r: r.data.label == ""),
        ("training.optimiser.betas=[0.8, 0.9]", lambda r: r.training.optimiser.betas == (0.8, 0.9)),
        ("training.decoder.times=[0.2, 0.6]", lambda r: r.training.decoder.times == (0.2, 0.6)),
        ("card.language=sv", lambda r: r.card == {"language": "sv"}),
        ("name=a=b", lambda r: r.name == "a=b"),
    ],
)
def test_a_setting_is_a_toml_value_or_a_bare_word(item: str, read: Any) -> None:
    """Numbers, truth values, lists and strings; groups are made as they are named; `no` is a word."""
    assert read(load_recipe(data="x.txt", sets=[item]))


def test_later_settings_win() -> None:
    """Flags come before --set on the command line."""
    assert load_recipe(data="x.txt", sets=["training.seed=1", "training.seed=2"]).training.seed == 2


@pytest.mark.parametrize("times", ["[0.6, 0.2]", "[0.2, 1.1]", "[-0.1, 0.5]"])
def test_the_decoders_diffusion_times_rise_and_are_times(times: str) -> None:
    with pytest.raises(UserError, match="give two diffusion times with 0 <= first <= second <= 1"):
        load_recipe(data="x.txt", sets=[f"training.decoder.times={times}"])


@pytest.mark.parametrize("item", ["training.minutes", "=3", " =3"])
def test_a_setting_without_key_or_value_is_refused(item: str) -> None:
    """It says how one looks."""
    with pytest.raises(UserError, match=r"give KEY=VALUE, such as training\.minutes=60"):
        load_recipe(data="x.txt", sets=[item])


def test_a_setting_below_a_value_is_refused(tmp_path: Path) -> None:
    """`name` is no group."""
    with pytest.raises(UserError, match="'name' is a value, not a group of settings"):
        load_recipe(recipe_file(tmp_path, 'name = "x"'), data="x.txt", sets=["name.first=3"])


# ------------------------------------------------------------------------------------------------ bad recipes


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("trainig.minutes=3", r"unknown key 'trainig': did you mean 'training'\?"),
        ("training.minuts=3", r"unknown key 'training.minuts': did you mean 'minutes'\?"),
        ("training.optimiser.wamup=3", r"unknown key 'training.optimiser.wamup': did you mean 'warmup'\?"),
        (
            "training.decoder.optimiser.wamup=3",
            r"training.decoder.optimiser: unknown key 'wamup': did you mean 'warmup'\?",
        ),
        ("lr=3", r"unknown key 'lr': did you mean 'training.optimiser.lr'\?"),
        ("width=3", r"did you mean 'autoencoder.backbone.width' or 'diffusion.denoiser.width'\?"),
        (
            "autoencoder.bottleneck.num_latents=8",
            "'autoencoder.bottleneck.num_latents' belongs to kind 'perceiver' or 'plan' or 'paper'; "
            "autoencoder.bottleneck has kind 'aligned'",
        ),
        ("diffusion.schedule.shfit=3", r"did you mean 'shift'\?"),
        ("autoencoder.backbone.widht=3", r"did you mean 'width'\?"),
        ("diffusion.denoiser.conditioning=film", "'adaln' or 'in_context'"),
        ("training.minutes=-1", "training.minutes: .*greater than 0"),
        ("training.seed=-1", "training.seed"),
        ("sampling.sampler=dimm", "ddim"),
        ("training.minutes=soon", "training.minutes: .*number.*'soon'"),
    ],
)
def test_an_unknown_key_names_the_nearest_and_a_wrong_value_what_is_allowed(item: str, message: str) -> None:
    """A key that nobody reads would be a setting that nobody gets."""
    with pytest.raises(UserError, match=message) as error:
        load_recipe(data="x.txt", sets=[item])
    assert "\n" not in str(error.value)


def test_a_recipe_that_cannot_be_read_is_said_in_one_line(tmp_path: Path) -> None:
    """Not there, not TOML (with the line), not UTF-8, a folder."""
    with pytest.raises(UserError, match="no recipe at"):
        load_recipe(tmp_path / "none.toml", data="x.txt")
    for content, message in ((b"name = \n", "line 1"), (b"name = '\xff'", "utf-8"), (b"a: 1", "line 1")):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(UserError, match=message) as error:
            load_recipe(tmp_path / "bad.toml", data="x.txt")
        assert "\n" not in str(error.value)
        assert "bad.toml" in str(error.value)
    with pytest.raises(UserError, match="cannot read the recipe"):
        load_recipe(tmp_path, data="x.txt")


def test_the_recipes_path_opens_the_message(tmp_path: Path) -> None:
    """So that one knows which file to mend."""
    with pytest.raises(UserError, match=r"recipe\.toml: unknown key 'nam'"):
        load_recipe(recipe_file(tmp_path, "nam = 3"), data="x.txt")
    with pytest.raises(UserError, match=r"recipe\.toml: data is 5; it must be a group"):
        load_recipe(recipe_file(tmp_path, "data = 5"), data="x.txt")


def test_a_recipe_may_extend_another(tmp_path: Path) -> None:
    """Group by group, through several files, in other folders too; settings given by hand are the last word."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "first.toml").write_text(
        'name = "first"\n[data]\nid = "a/b"\ntext = "body"\n[training]\nminutes = 5\n'
        '[training.diffusion]\nloss = "l1"\n'
    )
    (tmp_path / "second.toml").write_text('extends = "parts/first.toml"\n[training.diffusion]\ncurriculum = 0.5\n')
    (tmp_path / "third.toml").write_text('extends = "second.toml"\nname = "third"\n[training]\nminutes = 6\n')
    recipe = load_recipe(tmp_path / "third.toml")
    assert (recipe.name, recipe.data.id, recipe.training.minutes) == ("third", "a/b", 6)
    assert (recipe.training.diffusion.loss, recipe.training.diffusion.curriculum) == ("l1", 0.5)
    by_hand = load_recipe(tmp_path / "third.toml", data="rows.txt", sets=["training.diffusion.loss=huber"])
    assert (by_hand.data.id, by_hand.data.text, by_hand.training.diffusion.loss) == (None, None, "huber")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ('extends = "b.toml"', 'extends = "a.toml"', "extends 'a.toml', which extends this recipe"),
        ('extends = "c.toml"', "", "no recipe at '.*c.toml'"),
        ("extends = 3", "", "extends is 3; it must be the name of another recipe"),
    ],
)
def test_what_cannot_be_extended_is_said(tmp_path: Path, first: str, second: str, message: str) -> None:
    (tmp_path / "a.toml").write_text(first)
    (tmp_path / "b.toml").write_text(second)
    with pytest.raises(UserError, match=message):
        load_recipe(tmp_path / "a.toml", data="rows.txt")


# ------------------------------------------------------------------------------------------------ budgets


ROWS = [{"text": "a cat"}, {"text": "a dog"}]


def stages(**training: Any) -> Any:
    """The settings of the stages of a training from nothing."""
    recipe = Recipe.parse({"training": training, "start": "nothing"})
    return make_plan(recipe, Splits(ROWS, [], [])).stages


@pytest.fixture
def trained(tmp_path: Path) -> str:
    """A trained autoencoder to begin with."""
    save_parts(tiny.tiny_parts(), tmp_path / "trained")
    return str(tmp_path / "trained")


def test_minutes_are_shared_between_the_stages_that_run() -> None:
    """The sum of the parts is what was asked for. Stage `joint` has no share unless it is given one."""
    parts = {name: settings.minutes for name, settings in stages(minutes=60).items()}
    assert parts == pytest.approx({"autoencoder": 60 * 4 / 14, "diffusion": 60 * 6 / 14, "decoder": 60 * 4 / 14})
    assert list(stages(minutes=60, joint={"share": 1})) == list(STAGES)


def test_steps_are_exact_and_shared_alike() -> None:
    """A test or a comparison wants a budget that is the same everywhere."""
    assert {name: settings.steps for name, settings in stages(steps=140).items()} == {
        "autoencoder": 40, "diffusion": 60, "decoder": 40,
    }  # fmt: skip
    assert stages(steps=140)["diffusion"].minutes is None
    with pytest.raises(UserError, match="training.minutes and training.steps are both given"):
        stages(steps=140, minutes=3)


def test_what_was_trained_before_gets_a_smaller_share(trained: str) -> None:
    """It has a vocabulary to learn and no language; the rest goes to diffusion. A share that is given counts."""

    def steps(total: int, **settings: Any) -> dict[str, int | None]:
        own = settings.pop("own_vocabulary", True)
        recipe = Recipe.parse({"start": trained, "own_vocabulary": own, "training": {"steps": total, **settings}})
        return {name: found.steps for name, found in make_plan(recipe, Splits(ROWS, [], [])).stages.items()}

    assert steps(90) == {"autoencoder": 12, "diffusion": 60, "decoder": 18}
    assert steps(90, own_vocabulary=False) == {"diffusion": 69, "decoder": 21}
    given = steps(100, autoencoder={"share": 0.2}, decoder={"share": 0.2})
    assert given == {"autoencoder": 20, "diffusion": 60, "decoder": 20}


@pytest.mark.parametrize(
    ("given", "from_nothing", "from_known"),
    [
        ({}, ("muon", 3e-3), ("adamw", 2e-3)),
        ({"lr": 0.5}, ("muon", 0.5), ("adamw", 0.5)),
        ({"optimizer": "adamw"}, ("adamw", 2e-3), ("adamw", 2e-3)),
        ({"optimizer": "muon", "lr": 0.25}, ("muon", 0.25), ("muon", 0.25)),
    ],
)
def test_an_autoencoders_optimizer_suits_its_start_unless_it_is_given(
    given: dict[str, Any], from_nothing: tuple[str, float], from_known: tuple[str, float]
) -> None:
    """What the user says counts wherever it starts from; the other stages are the same everywhere."""
    training = plan(steps=10, autoencoder={"optimiser": given})
    for new, how in ((True, from_nothing), (False, from_known)):
        stage = stage_settings(training, "autoencoder", from_nothing=new, steps=4)
        assert (stage.optimizer, stage.lr) == how
        assert stage_settings(training, "diffusion", from_nothing=new, steps=6).lr == 1e-3


def test_without_a_budget_there_is_a_default() -> None:
    """`ladle train --data FILE` ends by itself."""
    assert sum(settings.minutes for settings in stages().values()) == pytest.approx(DEFAULT_MINUTES)


def test_a_stage_without_a_share_is_left_out() -> None:
    assert list(stages(steps=10, decoder={"share": 0})) == ["autoencoder", "diffusion"]


def test_a_stage_gets_what_all_have_in_common_and_its_own() -> None:
    """Seed and precision from the plan; of the optimiser what suits the stage, then what is given for all stages, then
    what is given for this one."""
    everywhere = {"max_tokens": 77, "lr": 0.25}
    found = stages(steps=10, seed=3, precision="fp32", optimiser=everywhere, diffusion={"optimiser": {"lr": 0.5}})
    settings = found["diffusion"]
    assert (settings.seed, settings.precision, settings.lr, settings.max_tokens) == (3, "fp32", 0.5, 77)
    assert (settings.optimizer, settings.cooldown) == ("muon", 0.5)
    assert (found["decoder"].lr, found["decoder"].max_tokens, found["decoder"].cooldown) == (0.25, 77, 0.2)


def test_a_plan_is_made_without_changing_the_recipe(trained: str) -> None:
    """The same recipe and rows give the same plan; what holds in the end stands in the plan's own recipe."""
    recipe = Recipe.parse({"start": trained, "training": {"steps": 10}})
    before = recipe.model_dump()
    one, other = (make_plan(recipe, Splits(ROWS, [], [])) for _ in range(2))
    assert recipe.model_dump() == before
    assert (one.recipe, one.condition, one.stages, one.notes) == (
        other.recipe,
        other.condition,
        other.stages,
        other.notes,
    )
    assert one.recipe.autoencoder.max_tokens == tiny.MAX_TOKENS != recipe.autoencoder.max_tokens


def test_a_wrong_choice_is_found_with_its_stage() -> None:
    """When the recipe is read; the message says where it stood, and what is allowed."""
    with pytest.raises(UserError, match="decoder.optimiser.lr_schedule: .*'cosine'.*'trapezoid'"):
        plan(steps=10, decoder={"optimiser": {"lr_schedule": "cosin"}})


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("training.autoencoder.kl.scale=0.1", 'kl needs autoencoder.bottleneck.regulariser = "gaussian"'),
        ("training.backbone=all", "training.backbone needs autoencoder.backbone.pretrained"),
        ("source={encoder='x', memory='latents'}", 'source: encoder needs memory = "states"'),
    ],
)
def test_a_setting_that_nobody_would_read_is_refused(item: str, message: str) -> None:
    """Else it would be a setting that nobody gets."""
    with pytest.raises(UserError, match=message):
        load_recipe(data="x.txt", sets=[item])


# ------------------------------------------------------------------------------------------------ writing


def test_a_resolved_recipe_is_written_as_toml_that_reads_back(tmp_path: Path) -> None:
    """A run's recipe.toml runs again, whatever the card and the names hold."""
    sets = [
        'name="a \\"b\\" ü\\n"', "training.steps=5", "training.diffusion.optimiser.lr=1e-05",
        "training.trackers=['é', 'b']", "data.label=",
    ]  # fmt: skip
    recipe = load_recipe(data="x.csv", sets=sets)
    recipe = recipe.model_copy(update={"card": {"base model": "x", "tags": ["a", "b"], "nested": {"key.s": 1.5}}})
    path = recipe_file(tmp_path, to_toml(recipe.model_dump(mode="json")))
    assert load_recipe(path) == recipe


def test_sampling_starts_from_what_was_measured_and_gives_way(tmp_path: Path) -> None:
    """A recipe that sets one value keeps the other defaults."""
    defaults = load_recipe(data="rows.jsonl").sampling
    assert defaults == SamplingOptions().override(**SAMPLING)
    changed = load_recipe(data="rows.jsonl", sets=["sampling.temperature=0.3"]).sampling
    assert changed == defaults.override(temperature=0.3)
    changed = load_recipe(data="rows.jsonl", sets=["sampling.conditional.noise_scale=0.3"]).sampling
    assert changed == defaults.override(conditional={"noise_scale": 0.3})
    assert changed.conditional.stop_time == 0.6


def test_an_autoencoder_that_was_asked_for_is_not_left_out_in_silence() -> None:
    """A bottleneck that base-en does not have starts from nothing. Settings of a stage that does not run are named."""
    splits = Splits(ROWS, [], [])
    plan = make_plan(Recipe.parse({"training": {"decoder": {"patience": 3}}}), splits)
    assert plan.start.name == "base-en" and "decoder" not in plan.stages
    assert any("'decoder' does not run; the recipe's [training.decoder] is not used" in n for n in plan.notes)
    plan = make_plan(Recipe.parse({"autoencoder": {"bottleneck": {"kind": "perceiver"}}}), splits)
    assert plan.start.name == "nothing" and "autoencoder" in plan.stages
    assert any(note.startswith("starting from nothing, not from 'base-en'") for note in plan.notes)


def test_long_texts_may_be_asked_of_a_model_of_plans() -> None:
    """Its places need no weights, so `max_tokens` alone changes nothing else of the start."""
    plan = make_plan(Recipe.parse({"autoencoder": {"max_tokens": 200}}), Splits(ROWS, [], []))
    assert plan.start.name == "base-en" and plan.start.keeps_autoencoder
    assert plan.recipe.autoencoder.max_tokens == 200
    assert plan.recipe.autoencoder.backbone == plan.start.autoencoder.config.backbone
