"""`ladle convert ld4lg`: checkpoints of the paper's code (arXiv 2212.09462) as Ladle models.

A diffusion folder of that code holds `args.json` and `model.pt`, and names the folder of its autoencoder, which holds
the same two files. Their networks are `PaperTransformer` and `PaperBottleneck`; only names are changed here. A `.pt`
file is a pickle: only tensors and numbers are read from it, and a file with anything else is refused.
"""

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ladle.autoencoder.autoencoder import AutoencoderConfig, TextAutoencoder
from ladle.autoencoder.backbone import Backbone
from ladle.conditioning.config import ConditionConfig, SourceConfig
from ladle.diffusion.model import DiffusionConfig, LatentDiffusionModel
from ladle.errors import UserError
from ladle.paper.bottleneck import HEAD_SIZE
from ladle.sampling.options import SamplingOptions
from ladle.storage.checks import check_writable
from ladle.storage.folders import check_folder
from ladle.storage.kinds import MODEL
from ladle.storage.model_folder import save_parts
from ladle.storage.parts import ModelParts

Settings = Mapping[str, Any]  # of args.json

PREDICTIONS = {"pred_v": "v", "pred_noise": "eps", "pred_x0": "x0"}
SCHEDULES = ("cosine", "sigmoid")
SAMPLERS = {"ddpm": "ddpm", "ddim": "ddim", "dpmpp": "dpmpp_2m"}

# Theirs -> ours, as regular expressions; a tensor whose name fits none of them is an error.
DENOISER = {
    r"input_proj\.(.+)": r"denoiser.input.\1",
    r"init_self_cond": r"denoiser.no_self_condition",
    r"pos_emb\.emb\.weight": r"denoiser.positions.weight",
    r"time_mlp\.1\.(.+)": r"denoiser.level.0.\1",
    r"time_mlp\.3\.(.+)": r"denoiser.level.2.\1",
    r"time_pos_embed_mlp\.1\.(.+)": r"denoiser.level_to_input.\1",
    r"class_embedding\.0\.weight": r"condition.label.weight",
    r"class_embedding\.1\.(.+)": r"denoiser.vector.\1",
    r"null_embedding_seq2seq\.weight": r"condition.no_source",
    r"seq2seq_proj\.(.+)": r"condition.project.1.\1",
    r"encoder\.dense_projections\.(\d+)\.(.+)": r"denoiser.skips.\1.\2",
    r"norm\.(.+)": r"denoiser.norm.\1",
    r"output_proj\.(.+)": r"denoiser.output.\1",
}
LAYERS = {  # of an attention (to itself, to the source) and of a feed-forward
    "attention": {r"0\.0\.(.+)": r"attention_norm.\1", r"1\.to_(.+)": r"attention.to_\1"},
    "cross": {r"0\.0\.(.+)": r"cross_norm.\1", r"1\.to_(.+)": r"cross_attention.to_\1"},
    "feed": {
        r"0\.0\.(.+)": r"feed_norm.\1",
        r"0\.1\.(.+)": r"fed_norm.\1",
        r"1\.ff\.0\.proj\.(.+)": r"feed_in.\1",
        r"1\.ff\.3\.(.+)": r"feed_out.\1",
        r"2\.scale_shift\.time_mlp\.1\.(.+)": r"modulation.\1",
    },
}
BOTTLENECK = {
    r"perceiver_encoder\.pos_emb\.emb\.weight": r"token_positions.weight",
    r"perceiver_encoder\.latents": r"queries",
    r"perceiver_encoder\.final_norm\.(.+)": r"norm_latents.\1",
    r"perceiver_encoder\.layers\.(\d+)\.0\.norm\.(.+)": r"readers.\1.states_norm.\2",
    r"perceiver_encoder\.layers\.(\d+)\.0\.norm_latents\.(.+)": r"readers.\1.latents_norm.\2",
    r"perceiver_encoder\.layers\.(\d+)\.0\.(query|key)_norm\.gamma": r"readers.\1.\2_gain",
    r"perceiver_encoder\.layers\.(\d+)\.0\.to_q\.weight": r"readers.\1.query.weight",
    r"perceiver_encoder\.layers\.(\d+)\.0\.to_kv\.weight": r"readers.\1.key_value.weight",
    r"perceiver_encoder\.layers\.(\d+)\.0\.latent_to_kv\.weight": r"readers.\1.latent_key_value.weight",
    r"perceiver_encoder\.layers\.(\d+)\.0\.to_out\.0\.(.+)": r"readers.\1.output.\2",
    r"perceiver_decoder\.pos_emb\.emb\.weight": r"positions.weight",
    r"perceiver_decoder\.input_proj\.(.+)": r"up.\1",
    r"perceiver_decoder\.final_norm\.(.+)": r"norm_out.\1",
    r"perceiver_decoder\.layers\.(\d+)\.0\.norm\.(.+)": r"layers.\1.attention_norm.\2",
    r"perceiver_decoder\.layers\.(\d+)\.0\.(query|key)_norm\.gamma": r"layers.\1.attention.\2_gain",
    r"perceiver_decoder\.layers\.(\d+)\.0\.to_(q|k|v|out)\.(.+)": r"layers.\1.attention.to_\2.\3",
    **{
        rf"perceiver_{theirs}\.layers\.(\d+)\.1\.{old}\.(.+)": rf"{ours}.\1.{new}.\2"
        for theirs, ours in (("encoder", "readers"), ("decoder", "layers"))
        for old, new in (("0", "feed_norm"), ("1", "feed.0"), ("4", "feed.2"))
    },
}


def convert_ld4lg(
    folder: str | Path,
    output: str | Path,
    *,
    autoencoder: str | Path | None = None,
    backbone: str | Path | None = None,
    labels: Sequence[str] = (),
) -> Path:
    """Write a Ladle model with the averaged weights of a diffusion checkpoint to `output`. Returns `output`.

    Args:
        folder: with args.json and model.pt, as the paper's code wrote them.
        autoencoder: the folder of the autoencoder; None: the one in args.json.
        backbone: folder or hub id of the encoder-decoder, for its config and tokenizer; None: the one in args.json.
        labels: names of the classes, in the order of their numbers; "0", "1" and so on when empty.

    Raises:
        UserError: a missing or malformed file, a file with more than tensors and numbers, a network or a schedule that
            Ladle does not have, a wrong number of labels.
    """
    inputs = (folder, autoencoder, backbone)
    check_folder(output, MODEL, inputs)
    check_writable(output, folder=True, inputs=inputs)
    folder = Path(folder)
    args, saved = _read(folder)
    latent_folder = Path(autoencoder or _required(args, "latent_model_path", folder))
    text_autoencoder = _autoencoder(latent_folder, backbone)
    tensors = _part(saved["ema"] if "ema" in saved else saved["model"], "ema_model." if "ema" in saved else "")
    diffusion = _diffusion(folder, args, tensors, text_autoencoder, labels)
    mean, scale = tensors["latent_mean"], tensors["latent_scale"].clamp(min=1e-5)  # one scale for all channels
    text_autoencoder.normaliser.load_state_dict({"mean": mean, "std": scale.expand_as(mean)})
    sampling = SamplingOptions(
        sampler=SAMPLERS.get(str(args.get("sampler")), "ddpm"),
        num_inference_steps=int(args.get("sampling_timesteps", 250)),
        guidance_scale=2.0 if diffusion.condition.config.source else 1.0,
    )
    name = str(args.get("dataset_name") or folder.name)
    info = {"converted": "LD4LG (arXiv 2212.09462)", "data": [{"name": name}]}
    save_parts(ModelParts(name, text_autoencoder.eval(), diffusion.eval(), sampling, info), output)
    return Path(output)


def _autoencoder(folder: Path, backbone: str | Path | None) -> TextAutoencoder:
    args, saved = _read(folder)
    tensors = saved["model"]
    source = backbone or _required(args, "enc_dec_model", folder)
    max_tokens = len(tensors["perceiver_ae.perceiver_encoder.pos_emb.emb.weight"])
    language_model = Backbone.from_pretrained(source, max_tokens, weights=False)
    config = AutoencoderConfig.parse({
        "max_tokens": max_tokens, "parallel_layers": 0,
        "backbone": {"pretrained": str(source)},
        "bottleneck": {
            "kind": "paper", "latent_dim": _required(args, "dim_ae", folder),
            "num_latents": _required(args, "num_encoder_latents", folder),
            "num_layers": _required(args, "num_layers", folder),
            "regulariser": "norm" if args.get("l2_normalize_latents") else "none",
        },
    })  # fmt: skip
    autoencoder = TextAutoencoder(config, language_model)
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith("perceiver_ae.")}
    missing, unknown = language_model.model.load_state_dict(own, strict=False)
    tied = set(getattr(language_model.model, "_tied_weights_keys", None) or ())
    if unknown or set(missing) - tied:
        raise UserError(f"{folder / 'model.pt'}: not the weights of '{source}': {sorted({*unknown, *missing})[0]}")
    _load(autoencoder.bottleneck, _renamed(_part(tensors, "perceiver_ae."), BOTTLENECK, folder), folder)
    return autoencoder


def _diffusion(
    folder: Path, args: Settings, tensors: Mapping[str, Tensor], autoencoder: TextAutoencoder, labels: Sequence[str]
) -> LatentDiffusionModel:
    where = folder / "args.json"
    network = _part(tensors, "diffusion_model.")
    if not (args.get("scale_shift") and args.get("self_condition")):
        raise UserError(f"{where}: the network must have scale_shift and self_condition; other networks are not known")
    for key, known in {"train_schedule": SCHEDULES, "objective": PREDICTIONS}.items():
        if args.get(key) not in known:
            raise UserError(f"{where}: {key} is {args.get(key)!r}; known are {', '.join(known)}")
    width, depth = _required(args, "tx_dim", folder), _required(args, "tx_depth", folder)
    num_labels = len(network["class_embedding.0.weight"]) - 1 if "class_embedding.0.weight" in network else 0
    names = tuple(labels) or tuple(str(number) for number in range(num_labels))
    if len(names) != num_labels:
        raise UserError(f"{len(names)} labels given; the checkpoint has {num_labels}")
    source = "seq2seq_proj.weight" in network
    config = DiffusionConfig.parse({
        "schedule": {"kind": args["train_schedule"], "shift": 1 / float(args.get("scale", 1.0))},
        "prediction": PREDICTIONS[args["objective"]],
        "self_condition": args.get("train_prob_self_cond", 0.5) > 0,
        "denoiser": {
            "kind": "paper", "width": width, "num_layers": depth, "num_heads": width // HEAD_SIZE,
            "num_skips": args.get("num_dense_connections", 0),
        },
    })  # fmt: skip
    plain = SourceConfig(plain=True, max_tokens=max(autoencoder.backbone.max_tokens, 1))
    condition = ConditionConfig(labels=names, source=plain if source else None)
    diffusion = LatentDiffusionModel(autoencoder, config, condition, autoencoder.backbone.width)
    found = _renamed(network, DENOISER | _layers(depth, source), folder)
    found["denoiser.positions.weight"] = found["denoiser.positions.weight"][: autoencoder.max_latents]
    for name in ("denoiser.no_self_condition", "condition.no_source"):
        if name in found:
            found[name] = found[name][0]
    _load(diffusion, found, folder)
    return diffusion


def _layers(depth: int, source: bool) -> dict[str, str]:
    """Names in the layers, which follow each other without a block around them."""
    kinds = ["attention", "cross", "feed"] if source else ["attention", "feed"]
    return {
        rf"encoder\.layers\.{block * len(kinds) + place}\.{old}": f"denoiser.blocks.{block}.{new}"
        for block in range(depth)
        for place, kind in enumerate(kinds)
        for old, new in LAYERS[kind].items()
    }


def _renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str], folder: Path) -> dict[str, Tensor]:
    """The tensors under Ladle's names, with queries, keys and values in the form of Ladle's attention."""
    found = {}
    for name, tensor in tensors.items():
        new = next((m.expand(ours) for theirs, ours in names.items() if (m := re.fullmatch(theirs, name))), None)
        if new is None:
            raise UserError(f"{folder / 'model.pt'}: Ladle's networks have no place for the tensor '{name}'")
        found[new] = tensor
    for name in [name for name in found if name.endswith(".to_k.weight")]:
        group = name.removesuffix("to_k.weight")
        parts = {part: found.pop(f"{group}to_{part}.weight") for part in ("q", "k", "v", "out")}
        found[group + "query.weight"] = parts["q"]
        found[group + "key_value.weight"] = torch.cat([parts["k"], parts["v"]])
        found[group + "output.weight"] = parts["out"]
        if f"{group}to_out.bias" in found:
            found[group + "output.bias"] = found.pop(f"{group}to_out.bias")
    return found


def _load(module: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{folder / 'model.pt'}: does not fit its args.json: {reason}") from None


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name begins with `prefix`, without that prefix in the name."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _read(folder: Path) -> tuple[Settings, dict[str, Any]]:
    """args.json and model.pt of a folder."""
    try:
        args = json.loads((folder / "args.json").read_text(encoding="utf-8"))
        saved = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing; give a folder with args.json and model.pt") from None
    except (OSError, ValueError, RuntimeError, EOFError) as error:
        raise UserError(f"cannot read {folder}: {str(error).splitlines()[0]}") from None
    except pickle.UnpicklingError:
        raise UserError(f"{folder / 'model.pt'} is damaged or holds more than tensors and numbers") from None
    if not isinstance(saved, dict) or "model" not in saved:
        raise UserError(f"{folder / 'model.pt'} is not a checkpoint of the paper's code: it has no 'model'")
    return args, saved


def _required(args: Settings, key: str, folder: Path) -> Any:
    if args.get(key) is None:
        raise UserError(f"{folder / 'args.json'} has no '{key}'")
    return args[key]
