"""The reward in use: lines of JSON, files, training frameworks, HTTP."""
