"""The small encoder-decoder of plan models in transformers' form: a sentence encoder, and `LanguageDecoder`.

Registered with transformers, so that its folders load like those of any other model once `ladle` is imported.
"""

from typing import Any

from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertModel,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from ladle.autoencoder.language import LanguageDecoder


class LanguageConfig(PreTrainedConfig):
    """The sizes of a `LanguageModel`. num_encoder_layers: 0 for a model without an encoder of its own."""

    model_type = "ladle-language"

    def __init__(
        self,
        vocab_size: int = 12288,
        hidden_size: int = 320,
        num_hidden_layers: int = 8,
        num_attention_heads: int = 5,
        max_position_embeddings: int = 96,
        encoder_hidden_size: int = 384,
        num_encoder_layers: int = 3,
        **others: Any,
    ):
        others = {"is_encoder_decoder": True, "tie_word_embeddings": False, **others}
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.num_attention_heads, self.max_position_embeddings = num_attention_heads, max_position_embeddings
        self.encoder_hidden_size, self.num_encoder_layers = encoder_hidden_size, num_encoder_layers
        super().__init__(**others)


class LanguageModel(PreTrainedModel, GenerationMixin):
    """A sentence encoder (BERT's layers, with token embeddings of its own) and a decoder that reads a memory."""

    config_class = LanguageConfig
    base_model_prefix = "language"
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, config: LanguageConfig):
        super().__init__(config)
        self.encoder: Any = None
        if config.num_encoder_layers:
            width = config.encoder_hidden_size
            self.encoder = BertModel(
                BertConfig(
                    vocab_size=config.vocab_size, hidden_size=width, num_hidden_layers=config.num_encoder_layers,
                    num_attention_heads=max(1, width // 32), intermediate_size=4 * width, hidden_dropout_prob=0.0,
                    attention_probs_dropout_prob=0.0, max_position_embeddings=config.max_position_embeddings,
                    type_vocab_size=1, pad_token_id=config.pad_token_id, attn_implementation="eager",
                ),
                add_pooling_layer=False,
            )  # fmt: skip
        self.decoder = LanguageDecoder(
            config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads,
            config.max_position_embeddings,
        )  # fmt: skip
        # (Without `post_init`, which would draw the weights again, also those that start at zero.)
        self.all_tied_weights_keys: dict[str, str] = {}

    def get_encoder(self, *args: Any, **options: Any) -> Any:
        """The sentence encoder: input_ids, attention_mask -> last_hidden_state [B, S, encoder_hidden_size]."""
        return self.encoder

    def get_decoder(self, *args: Any, **options: Any) -> LanguageDecoder:
        """The decoder."""
        return self.decoder

    def get_input_embeddings(self) -> nn.Embedding:
        """The decoder's token embeddings, which are its output's too. The encoder has its own."""
        return self.decoder.embedding

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        labels: Tensor | None = None,
        **unused: Any,
    ) -> Seq2SeqLMOutput:
        """decoder_input_ids [B, S] and a memory (`encoder_outputs`) [B, N, hidden_size] -> logits [B, S, V]; with
        labels [B, S] (-100: none) their loss instead."""
        assert decoder_input_ids is not None and encoder_outputs is not None, "give a memory as encoder_outputs"
        mask = None if attention_mask is None else attention_mask.bool()
        output = self.decoder(decoder_input_ids, encoder_outputs[0], mask, labels)
        return Seq2SeqLMOutput(logits=output) if labels is None else Seq2SeqLMOutput(loss=output)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """What `forward` reads: whole texts. (Only beam search comes here, which keeps no keys and values.)"""
        kept = {name: kwargs.get(name) for name in ("attention_mask", "encoder_outputs")}
        return {"decoder_input_ids": input_ids, **kept}

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, LanguageDecoder):  # every module has its own start; what is not stored is made anew
            module.make_tables()


AutoConfig.register(LanguageConfig.model_type, LanguageConfig, exist_ok=True)
AutoModelForSeq2SeqLM.register(LanguageConfig, LanguageModel, exist_ok=True)
