"""The engine loads a vision-language model, fits it to one card, and runs it once for a whole group."""

from typing import TYPE_CHECKING

from minirft import lazily

if TYPE_CHECKING:
    from minirft.engine import layers
    from minirft.engine.decoding import DECODERS, Growing, prefill
    from minirft.engine.families import Family, check_layers, family_of
    from minirft.engine.layers import Spans
    from minirft.engine.loading import (
        HUB,
        TINY,
        LoraSettings,
        add_lora,
        copy_trained,
        load_model,
        lora_config,
        need_bitsandbytes,
        nf4_settings,
        pick_device,
        pick_dtype,
        read_config,
        read_family,
        resolve,
        tidy_after_quantising,
    )
    from minirft.engine.logprobs import (
        CHUNK,
        Rows,
        gather_logprobs,
        naive_logits,
        pad_rows,
        passes,
        rollout_logprobs,
        token_logprobs,
    )
    from minirft.engine.model import LossScale, Model
    from minirft.engine.offload import keep_in_host_memory
    from minirft.engine.processor import CHAT, FeatureCache, Processor, PromptCache, load_processor
    from minirft.engine.quiet import quieten_libraries
    from minirft.engine.versions import Qwen2VLImageProcessorPil, quiet_peft, recompute_layers

__getattr__, __all__ = lazily(__name__)
