"""What can go wrong in a way that the user can mend."""

__all__ = ["DPOError"]


class DPOError(RuntimeError):
    """DPO that cannot start or go on, or pairs that it cannot use; the message says what to change."""
