"""Every sentence that is made from numbers: verdicts, power, length, policies, and what a notebook found."""
