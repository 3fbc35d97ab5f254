"""The engine: how a vision-language model is loaded, fitted to one card and run once for a whole group."""

from typing import TYPE_CHECKING

from minirft import lazily

if TYPE_CHECKING:
    from minirft.engine import attention
    from minirft.engine.attention import Spans
    from minirft.engine.decoding import DECODERS, Growing
    from minirft.engine.features import FeatureCache, PromptCache
    from minirft.engine.loading import (
        HUB,
        TARGETS,
        TINY,
        LoraSettings,
        add_lora,
        copy_trained,
        load_model,
        pick_device,
        pick_dtype,
        resolve,
    )
    from minirft.engine.logprobs import gather_logprobs, token_logprobs
    from minirft.engine.model import Model
    from minirft.engine.offload import keep_in_host_memory
    from minirft.engine.precision import LossScale, round_at_random
    from minirft.engine.prefix import Rows, naive_logits, passes, prefill, rollout_logprobs
    from minirft.engine.processor import Processor, load_processor
    from minirft.engine.quiet import quieten_libraries
    from minirft.engine.versions import Qwen2VLImageProcessorPil, recompute_layers

__getattr__, __all__ = lazily(__name__)
