"""What a section of a profile is; the sections are in ``params.py``, ``reward_model_params.py``, ``rlhf_params.py``."""

from pydantic import BaseModel, ConfigDict

__all__ = ["Section"]


class Section(BaseModel):
    """A section of a profile: frozen, typed strictly, closed to unknown keys."""

    # hide_input_in_errors: a mistyped api_key must not be repeated in a traceback.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )
