"""Controls: small classifiers of noised latents, fitted, kept, refused, and followed by the sampler."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from ladle.control import Control, Steer, SteerBy, fit_control
from ladle.control.classifier import ClassifierConfig, LatentClassifier
from ladle.control.fitting import describe_held_out
from ladle.control.steer import steering_of
from ladle.diffusion.schedule import PATHS, Level, ScheduleConfig, build_schedule
from ladle.errors import UserError
from ladle.evaluation.judge import Judge, fit_judge
from ladle.pipeline import LatentDiffusion
from ladle.storage.model_folder import save_parts

ROWS = [{"text": text, "label": "cat" if " cat " in text or " fox " in text else "bird"} for text in tiny.SENTENCES]
KINDS = {"plan": tiny.tiny_plan_parts, "aligned": tiny.tiny_parts}
SCHEDULE = build_schedule(ScheduleConfig())


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str) -> LatentDiffusion:
    return LatentDiffusion(KINDS[kind]())


@pytest.fixture(scope="module")
def control(model: LatentDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Control:
    return model.fit_control(ROWS, tmp_path_factory.mktemp("fitted") / "control", steps=250)


def shares_of(model: LatentDiffusion, judge: Control, **options: Any) -> torch.Tensor:
    """The probability of "cat" of the latents that a call draws."""
    samples = model.generate(24, seed=0, return_samples=True, stop_time=0.0, num_inference_steps=12, **options)
    found = []
    for sample in samples:
        level = SCHEDULE.level_from_log_snr(torch.tensor(12.0))
        z0 = sample.latents[None]
        mask = torch.ones(z0.shape[:2], dtype=torch.bool)
        found.append(judge.log_prob("cat", mask)(z0, level).exp())
    return torch.cat(found)


# ------------------------------------------------------------------------------------------------ the classifier


@pytest.mark.parametrize("count", [4, None])
@pytest.mark.parametrize("path", PATHS)
def test_its_gradient_stays_bounded_up_to_pure_noise(count: int | None, path: str) -> None:
    """What steering adds to z0_hat is sigma^2 / alpha times the gradient; 1 / alpha is thousands at the end."""
    torch.manual_seed(0)
    classifier = LatentClassifier(ClassifierConfig(num_labels=2, latent_dim=8, num_latents=count)).eval()
    mask, added = torch.ones(3, 4, dtype=torch.bool), []
    for log_snr in (-15.0, -10.0, -5.0):
        level = Level(torch.tensor(log_snr), *PATHS[path](torch.tensor(log_snr)))
        zt = (level.sigma * torch.randn(3, 4, 8)).requires_grad_()
        (gradient,) = torch.autograd.grad(classifier(zt, level, mask).log_softmax(1)[:, 0].sum(), zt)
        added.append(float((level.sigma**2 / level.alpha * gradient).norm()))
    assert max(added) < 3 * min(added)


def test_latents_that_are_not_there_have_no_say() -> None:
    """Else a text's control would depend on the length of its neighbours."""
    torch.manual_seed(0)
    classifier = LatentClassifier(ClassifierConfig(num_labels=3, latent_dim=8)).eval()
    zt, mask, level = (
        torch.randn(2, 5, 8),
        torch.tensor([[True] * 5, [True] * 3 + [False] * 2]),
        SCHEDULE.level(torch.tensor(0.5)),
    )
    alone = classifier(zt[1:, :3], level, mask[1:, :3])
    torch.testing.assert_close(classifier(zt, level, mask)[1:], alone)


# ------------------------------------------------------------------------------------------------ fitting and keeping


def test_a_control_learns_labels_that_the_model_does_not_know(model: LatentDiffusion, control: Control) -> None:
    """Better than the commonest label on rows that it never saw, while there is little noise; and it says so."""
    found = control.held_out
    assert control.labels == ("bird", "cat") and found["n"] == 10
    assert found["accuracy"]["0.1"] > found["commonest"] and found["accuracy"].keys() == {"0.1", "0.5", "0.9"}
    assert "at t = 0.5" in describe_held_out(control)
    shares = control.probabilities(model.autoencoder, [row["text"] for row in ROWS])
    right = [control.labels[int(i)] == row["label"] for i, row in zip(shares.argmax(1), ROWS, strict=True)]
    assert sum(right) > 0.85 * len(ROWS)
    torch.testing.assert_close(shares.sum(1), torch.ones(len(ROWS)))


def test_a_seed_fits_the_same_control(model: LatentDiffusion) -> None:
    """In any order of calls: the program's own random numbers have no part in it, and are left as they were."""
    first = fit_control(model.parts, ROWS, steps=20)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again = fit_control(model.parts, ROWS, steps=20)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.digest == again.digest != fit_control(model.parts, ROWS, steps=20, seed=1).digest


def test_it_comes_back_from_its_folder(model: LatentDiffusion, control: Control) -> None:
    """The same to the last bit, and steering by the folder is steering by the object."""
    loaded = Control.load(control.name)
    assert (loaded.digest, loaded.labels, loaded.space, loaded.held_out) == (
        control.digest, control.labels, control.space, control.held_out,
    )  # fmt: skip
    texts = [model.generate(3, seed=1, control=Steer(one, "cat", 3.0)) for one in (control, loaded, control.name)]
    assert texts[0] == texts[1] == texts[2]


def test_a_user_folder_is_not_written_over(model: LatentDiffusion, tmp_path: Path) -> None:
    (tmp_path / "control.json").write_text("{}")
    with pytest.raises(UserError, match="Ladle did not write it"):
        fit_control(model.parts, ROWS, tmp_path, steps=1)
    assert (tmp_path / "control.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["control.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut", "foreign"])
def test_a_damaged_folder_is_one_line(control: Control, tmp_path: Path, name: str, damage: str) -> None:
    control.save(tmp_path / "control")
    path = tmp_path / "control" / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[:-9] if damage == "cut" else b"[]")
    with pytest.raises(UserError, match="cannot load the control in .*ladle fit control") as caught:
        Control.load(tmp_path / "control")
    assert "\n" not in str(caught.value)


def test_rows_from_which_no_control_can_be_made(model: LatentDiffusion) -> None:
    for rows, says in (
        ([{"text": "a", "label": "x"}] * 3, "two labels or more; all rows have the label 'x'"),
        ([{"text": f"a {i}", "label": f"l{i}"} for i in range(201)], "201 different values"),
        (["a", "b"], "label"),
    ):
        with pytest.raises(UserError, match=says):
            fit_control(model.parts, rows, steps=1)
    for minutes in (0, -1.0, float("nan"), "1"):
        with pytest.raises(UserError, match="minutes is"):
            fit_control(model.parts, ROWS, minutes=minutes)


# ------------------------------------------------------------------------------------------------ steering


@pytest.mark.parametrize("by", ["estimate", "latents"])
def test_samples_go_where_the_control_points(model: LatentDiffusion, control: Control, by: Any) -> None:
    """To its label with a scale above 0, away from it below; 0 asks for nothing, bit for bit."""

    def share(label: str, scale: float) -> float:
        return float(shares_of(model, control, control=Steer(control, label, scale, by=by)).mean())

    free = shares_of(model, control)
    assert torch.equal(shares_of(model, control, control=Steer(control, "cat", 0, by=by)), free)
    assert share("cat", 8.0) > float(free.mean()) + 0.05 > float(free.mean()) - 0.05 > share("cat", -8.0)
    assert share("bird", 8.0) < float(free.mean()) - 0.05


def test_by_the_estimate_the_control_reads_what_the_denoiser_says(model: LatentDiffusion, control: Control) -> None:
    """By hand at one level: the estimate's way is the classifier at z0_hat, with the gradient through the denoiser."""
    mask = torch.ones(3, model.diffusion.max_latents, dtype=torch.bool)
    zt = torch.randn(*mask.shape, model.diffusion.latent_dim)
    level = model.diffusion.schedule.level(torch.tensor(0.5))
    clean = SCHEDULE.level_from_log_snr(torch.tensor(12.0))

    def shrunk(zt: torch.Tensor, level: Level, z0_prev: torch.Tensor | None = None) -> torch.Tensor:
        return level.alpha * zt  # exact for latents that are N(0, 1)

    steering = steering_of(model.autoencoder, model.diffusion, Steer(control, "cat", 3.0))
    assert steering is not None
    given = (level.alpha * zt).requires_grad_()
    (slope,) = torch.autograd.grad(control.log_prob("cat", mask)(given, clean).sum(), given)
    found = steering.wrap(shrunk, mask)(zt, level)
    torch.testing.assert_close(found, level.alpha * zt + 3.0 * level.sigma**2 * slope)


def test_several_controls_and_guidance_go_together(model: LatentDiffusion, control: Control) -> None:
    """With labels and sources of the model's own; two opposite controls of one strength nearly cancel."""
    free = shares_of(model, control, label="good", guidance_scale=2.0)
    both = [Steer(control, "cat", 8.0), SteerBy(lambda z0_hat: -z0_hat.square().flatten(1).sum(1), 0.01)]
    assert shares_of(model, control, label="good", guidance_scale=2.0, control=both).mean() > free.mean() + 0.05
    opposite = [Steer(control, "cat", 8.0), Steer(control, "bird", 8.0)]
    cancelled = shares_of(model, control, label="good", guidance_scale=2.0, control=opposite)
    assert (cancelled - 0.5).abs().mean() < (free - 0.5).abs().mean() + 0.25


def test_controls_go_together_with_weights_of_single_conditions(kind: str) -> None:
    """Attributes, one of them to avoid, guidance in an interval of times, and a control, at any batch size."""
    attributes = {"area": ("city", "river"), "food": ("French", "Italian")}
    parts = tiny.tiny_plan_parts(attributes=attributes)
    if kind == "aligned":
        parts = tiny.tiny_parts()
        parts.diffusion = tiny.tiny_diffusion(parts.autoencoder, attributes=attributes)
    model = LatentDiffusion(parts)
    given: dict[str, Any] = {
        "seeds": range(6), "attributes": {"food": ["Italian", None, "French"] * 2, "area": "river"},
        "guidance_scales": {"food": -1.0}, "guidance_scale": 2.0, "guidance_from": 0.9, "candidates": 1,
        "return_samples": True, "stop_time": 0.0,
    }  # fmt: skip
    raised = SteerBy(lambda z0_hat: z0_hat[..., 0].sum(1), 3.0)
    free = model.generate(**given)
    up, apart = (model.generate(**given, control=raised, batch_size=size) for size in (6, 2))
    first = [sum(float(sample.latents[:, 0].sum()) for sample in samples) for samples in (free, up)]
    assert first[1] > first[0] + 1
    assert [one.text for one in up] == [one.text for one in apart]
    assert [one.attributes.get("food") for one in up] == ["Italian", None, "French"] * 2


def test_a_function_of_the_estimate_steers(model: LatentDiffusion) -> None:
    """A bare function too; its gradient goes through the network, also for weights that are trained."""

    def first_channel(control: Any) -> float:
        samples = model.generate(12, seed=0, return_samples=True, stop_time=0.0, control=control)
        return sum(float(sample.latents[:, 0].sum()) for sample in samples)

    def raise_it(z0_hat: torch.Tensor) -> torch.Tensor:
        return z0_hat[..., 0].sum(1)

    free, bare, same, down = (first_channel(c) for c in (None, raise_it, [SteerBy(raise_it)], SteerBy(raise_it, -1.0)))
    assert bare == same and bare > free > down
    assert all(parameter.grad is None for parameter in model.diffusion.parameters())


@pytest.mark.parametrize("control_kind", ["steer", "by"])
def test_a_controlled_seed_gives_its_text_at_any_batch_size(
    model: LatentDiffusion, control: Control, control_kind: str
) -> None:
    asked: Any = Steer(control, "cat", 2.0) if control_kind == "steer" else SteerBy(lambda z: z[..., 0].sum(1), 0.5)
    options = {"seeds": range(12), "label": ["good", None, "bad"] * 4, "control": asked}
    texts = model.generate(**options, batch_size=12)
    assert model.generate(**options, batch_size=1) == texts
    assert model.generate(**options, batch_size=5) == texts


def test_a_control_steers_only_between_its_times(model: LatentDiffusion, control: Control) -> None:
    """A range in which no step lies changes nothing."""
    free = model.generate(4, seed=3)
    assert model.generate(4, seed=3, control=Steer(control, "cat", 9.0, from_time=0.99, to_time=0.985)) == free


# ------------------------------------------------------------------------------------------------ candidates


@pytest.mark.parametrize("choose", ["label", "sound"])
def test_candidates_are_preferred_that_are_what_the_control_asks_for(
    model: LatentDiffusion, control: Control, choose: str
) -> None:
    """Their texts are read again. A negative scale takes those that are surely not of the label."""
    for scale, sign in ((0.01, 1), (-0.01, -1)):
        asked = Steer(control, "cat", scale)
        one = model.generate(8, seed=0, control=asked, temperature=1.0)
        best = model.generate(
            8, seed=0, control=asked, temperature=1.0, candidates=6, choose=choose, label_confidence=1.0
        )
        shares = [control.probabilities(model.autoencoder, texts)[:, 1] for texts in (one, best)]
        assert sign * float((shares[1] - shares[0]).mean()) > 0.02


def test_the_share_of_a_candidate_is_the_smallest_of_all_that_is_asked(
    model: LatentDiffusion, control: Control
) -> None:
    """By hand, from the label's own probability and those of two controls, one of them negated."""
    rows = [{"text": text, "label": "at" if " at " in text or " to " in text else "-"} for text in tiny.SENTENCES]
    place = model.fit_control(rows, steps=100)
    samples = model.generate(
        8, seed=0, label="good", candidates=2, choose="label", label_confidence=0.0, return_samples=True,
        temperature=1.0, control=[Steer(control, "cat", 0.1), Steer(place, "at", -0.1)],
    )  # fmt: skip
    texts, seeds = [sample.text for sample in samples], [sample.seed for sample in samples]
    good = model.classify(texts, seeds=seeds)[:, 1]
    cat, at = control.probabilities(model.autoencoder, texts)[:, 1], place.probabilities(model.autoencoder, texts)[:, 1]
    each = torch.stack([good, cat, 1 - at])
    assert len(set(each.argmin(0).tolist())) > 1
    expected = each.amin(0) * torch.tensor([float(bool(text.strip())) for text in texts])
    torch.testing.assert_close(torch.tensor([sample.score for sample in samples]), expected, atol=2e-3, rtol=0)


# ------------------------------------------------------------------------------------------------ wrong use


def test_a_control_of_another_model_is_refused(control: Control) -> None:
    other = LatentDiffusion(tiny.tiny_plan_parts(seed=7))
    other.autoencoder.normaliser.mean.add_(0.1)
    for use in (
        lambda: other.generate(1, control=Steer(control, "cat")),
        lambda: control.probabilities(other.autoencoder, ["a"]),
    ):
        with pytest.raises(UserError, match="of another model's latents; fit one with `ladle fit control"):
            use()


def test_wrong_use_names_what_is_allowed(model: LatentDiffusion, control: Control, tmp_path: Path) -> None:
    for asked, says in (
        (lambda: Steer(control, "cats"), "does not know the label 'cats': did you mean 'cat'"),
        (lambda: Steer(tmp_path, "cat"), "cannot load the control in"),
        (lambda: Steer(3, "cat"), "a control is a int; give the folder"),
        (lambda: "cat", "control is 'cat'; give Steer"),
        (lambda: [3], "control is a int; give Steer"),
        (lambda: Steer(control, "cat", float("inf")), "the scale of a control is inf"),
        (lambda: Steer(control, "cat", "2"), "the scale of a control is '2'"),
        (lambda: Steer(control, "cat", 1.0, from_time=0.2, to_time=0.5), "from time 0.2 to time 0.5"),
        (lambda: Steer(control, "cat", by="words"), "steers by 'words'; allowed are estimate, latents"),
        (lambda: SteerBy("cat"), "needs a function"),
        (lambda: lambda z0_hat: z0_hat, "one number for each row"),
    ):
        with pytest.raises(UserError, match=says):
            model.generate(1, control=asked())
    with pytest.raises(UserError, match="needs a label, an attribute or a control"):
        model.generate(1, choose="label", candidates=2, control=lambda z: z.sum((1, 2)))


def test_a_control_from_the_shell(control: Control, tmp_path: Path) -> None:
    """FOLDER=LABEL:SCALE; a folder may hold "=", a label ":"."""
    steer = Steer.parse(f"{control.name}=cat")
    assert (steer.label, steer.scale) == ("cat", 4.0)
    assert Steer.parse(f"{control.name}=cat:-2.5").scale == -2.5
    odd = tmp_path / "a=b"
    Control(control.classifier, ("at 5:30", "x"), control.space, control.held_out).save(odd)
    assert Steer.parse(f"{odd}=at 5:30").label == "at 5:30"
    assert Steer.parse(f"{odd}=at 5:30:2").shown == f"{odd}=at 5:30:2"
    for text, says in (
        (control.name, "FOLDER=LABEL:SCALE"),
        (f"{control.name}=cat:much", "the scale is 'much'"),
        (f"{control.name}=dog", "does not know the label 'dog'"),
        ("nowhere=cat", "cannot load the control in nowhere"),
    ):
        with pytest.raises(UserError, match=says):
            Steer.parse(text)


def test_the_benchmark_of_controls_writes_its_table(
    kind: str, control: Control, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge that guided nothing says how often each label was obeyed; below 0 by texts that are not of it."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    benchmark = import_module("control")
    save_parts(KINDS[kind](), tmp_path / "model")
    fit_judge(ROWS, tmp_path / "judge")
    given = ["--control", control.name, "--judge", str(tmp_path / "judge"), "-n", "6", "--scales", "0", "2", "-2"]
    rows = benchmark.main([str(tmp_path / "model"), *given, "--words", "2-9", "--labels", "cat", "--candidates", "2"])
    assert [row["scale"] for row in rows] == [0, 2, -2]
    judge = Judge.load(tmp_path / "judge")
    cats = [judge.accuracy(row["texts"], ["cat"] * 6)["value"] for row in rows]
    assert [row["obeyed"]["value"] for row in rows] == pytest.approx([cats[0], cats[1], 1 - cats[2]])
    out = capsys.readouterr().out
    assert out.startswith("| label | scale | obeyed, % (judge) | Div |") and "| cat | -2 |" in out
    with pytest.raises(UserError, match="--words is '6'"):
        benchmark.main([str(tmp_path / "model"), *given, "--words", "6"])
