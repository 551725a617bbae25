"""A causal language model with its tokenizer, loaded whole or refused."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from realm_lib.config.rlhf import PolicyParams
from realm_lib.models.checkpoints import OWN_CODE, needs_own_code, position_limit
from realm_lib.models.gguf import TOKENIZER_FILES, find_gguf, gguf_config, gguf_tokenizer, load_gguf
from realm_lib.models.special_tokens import cut_special_tokens
from realm_lib.rlhf.errors import PolicyError
from realm_lib.rlhf.policies import adapters
from realm_lib.rlhf.policies.dropout import switch_off_dropout
from realm_lib.rlhf.policies.sharding import Shards, full_state_dict
from realm_lib.runs.files import atomic_path
from realm_lib.runs.trained_on import write_trained_on
from realm_lib.runs.weights import checkpoint_fault, four_bit, hub_commit, locate_model


@dataclass(frozen=True)
class Policy:
    """A causal language model (perhaps under a LoRA adapter) and its tokenizer."""

    model: Any
    tokenizer: Any
    own_base: bool = False
    """Whether no other place holds the model under the adapter: an adapter that it came with was merged into it."""
    fits: dict[str, int] = field(default_factory=dict, compare=False, repr=False)
    """Rows at once that were found to fit memory where more were asked for, by what was done with them."""
    shards: Shards | None = field(default=None, compare=False, repr=False)
    """How the model's weights are cut over processes; None where this one holds them whole."""

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a response: the tokenizer's EOS and those of the model's generation configuration."""
        config = getattr(self.model, "generation_config", None)
        own = getattr(config, "eos_token_id", None)
        listed = own if isinstance(own, list) else [] if own is None else [own]
        return frozenset({int(self.tokenizer.eos_token_id), *map(int, listed)})

    @property
    def context(self) -> int | None:
        """Most tokens of prompt and response together; None where the model states no limit."""
        return position_limit(self.model.config)


def load_policy(
    params: PolicyParams,
    run_folder: Path | None = None,
    *,
    trainable: bool = False,
    device: torch.device | None = None,
) -> Policy:
    """The policy that ``params`` names; ``run_folder`` is where ``run:`` names start.

    Without ``device_map`` and quantisation it is put on ``device``; None is this process's own.

    A folder with a LoRA adapter is loaded as its base model, at the commit that the adapter was trained on, under the
    adapter. ``trainable`` merges that adapter into the base, so that what training starts from is one model and the
    reference; puts a new adapter on it where ``params.lora`` asks for one; and freezes everything else. Dropout is off
    in either case, in training mode too. Raises :class:`PolicyError` for weights that do not fill the model exactly,
    for a tokenizer without a chat template, EOS or pad token, and for an adapter to train on 4-bit weights.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    source = locate_model(params.model_name, run_folder)
    tokenizer = _load_tokenizer(source, params)
    adapter = source if isinstance(source, Path) and adapters.is_adapter(source) else None
    base, revision = (source, params.revision) if adapter is None else adapters.adapter_base(adapter)
    options: dict[str, Any] = {
        "dtype": getattr(torch, params.dtype),
        "revision": revision,
        "use_safetensors": True,  # else a folder that has only pytorch_model.bin would be unpickled
        "trust_remote_code": False,  # else transformers asks on the terminal
    }
    if adapter is not None and trainable:
        adapters.check_mergeable(params)
    if params.device_map is not None:
        options["device_map"] = params.device_map
    if params.quantization == "4bit":
        options["quantization_config"] = four_bit(options["dtype"])
        options.setdefault("device_map", {"": process_state().device})
    try:
        file = find_gguf(base)
        if file is not None:
            del options["revision"], options["use_safetensors"]
            model, info = load_gguf(file, transformers.AutoModelForCausalLM, gguf_config(file), **options)
        else:
            model, info = transformers.AutoModelForCausalLM.from_pretrained(base, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = OWN_CODE if needs_own_code(error) else error
        raise PolicyError(f"{params.model_name}: the model cannot be loaded: {reason}") from error
    if fault := checkpoint_fault(info):
        raise PolicyError(f"{params.model_name}: {fault}: these weights are not those of a {type(model).__name__}")
    if params.device_map is None and params.quantization is None:
        model = model.to(device or process_state().device)
    if adapter is not None and trainable:
        model = adapters.with_merged(model, adapter, params)
    elif adapter is not None:
        model = adapters.under_adapter(model, adapter)
    switch_off_dropout(model)
    if trainable and params.quantization is not None:
        _keep_gradients(model)
    if trainable and params.lora is not None:
        commit = hub_commit(str(base), revision) if not isinstance(base, Path) else None
        model = adapters.with_new_adapter(model, params, commit or revision)
        return Policy(model.eval(), tokenizer, own_base=adapter is not None)
    model.requires_grad_(trainable)
    return Policy(model.eval(), tokenizer)


def process_state() -> Any:
    """accelerate's PartialState: this process's device, and its place among those that ``accelerate launch`` started.

    Where there is no GPU accelerate must be told so before it finds the other processes.
    """
    from accelerate import PartialState

    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true" or not torch.cuda.is_available()
    return PartialState(cpu=on_cpu)


def whole_weights(policy: Policy) -> dict[str, Tensor] | None:
    """What :func:`save_policy` needs of a policy whose weights are cut, by all processes together; else None."""
    if policy.shards is None:
        return None
    policy.shards.let_go()
    return full_state_dict(policy.model, trained=hasattr(policy.model, "peft_config") and not policy.own_base)


def save_policy(
    policy: Policy,
    folder: str | Path,
    trained_on: Iterable[str] | None = None,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Save model and tokenizer; the folder appears when all is in it.

    Of a model under an adapter the adapter alone, which names its base; and a base of its own too
    (:attr:`Policy.own_base`). ``trained_on`` are the keys of the posts that it was trained on or chosen by.
    ``weights`` are those of :func:`whole_weights`; None takes the model's own.
    """
    with atomic_path(folder) as temporary:
        policy.model.save_pretrained(temporary, **({} if weights is None else {"state_dict": weights}))
        if policy.own_base:
            adapters.save_base(policy.model, temporary, Path(folder), weights)
        policy.tokenizer.save_pretrained(temporary)
        write_trained_on(temporary, trained_on)
        (temporary / "README.md").unlink(missing_ok=True)  # peft's, which knows nothing of this model


def _load_tokenizer(source: Path | str, params: PolicyParams) -> Any:
    import transformers

    name = params.model_name
    try:
        file = find_gguf(source)
        if file is not None:
            tokenizer = gguf_tokenizer(file)
        elif isinstance(source, Path) and not any((source / each).is_file() for each in TOKENIZER_FILES):
            raise PolicyError(f"{name}: {source} holds no tokenizer: save the model's tokenizer beside its weights")
        else:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                source, revision=params.revision, trust_remote_code=False
            )
    except (OSError, ValueError, RuntimeError) as error:
        reason = OWN_CODE if needs_own_code(error) else error
        raise PolicyError(f"{name}: the tokenizer cannot be loaded: {reason}") from error
    cut_special_tokens(tokenizer)
    if not tokenizer.chat_template:
        raise PolicyError(f"{name}: the tokenizer has no chat template; take an instruction-tuned model")
    if tokenizer.eos_token_id is None:
        raise PolicyError(f"{name}: the tokenizer has no EOS token: responses would never end")
    if params.pad_token is not None:
        if params.pad_token not in tokenizer.get_vocab():
            raise PolicyError(f"{name}: pad_token {params.pad_token!r} is not in the tokenizer's vocabulary")
        tokenizer.pad_token = params.pad_token
    if tokenizer.pad_token_id is None:
        raise PolicyError(
            f"{name}: the tokenizer has no pad token: set pad_token in the policy's parameters to a token that no text "
            f"uses, or to {tokenizer.eos_token!r} (its EOS; masks keep the two apart here, other tools may not)"
        )
    return tokenizer


def _keep_gradients(model: Any) -> None:
    """Keep 4-bit layers in the form through which gradients pass.

    On some CPUs bitsandbytes repacks a layer for good at its first pass without a gradient, into a form whose backward
    pass gives wrong gradients and only a warning; and rollouts are such passes.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
