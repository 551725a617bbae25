"""Preference pairs, prompts and chats: read from files of any form, checked, filtered; or simulated."""
