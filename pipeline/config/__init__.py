"""The configuration: its fields, its validation, its loading."""
