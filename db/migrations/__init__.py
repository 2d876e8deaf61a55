"""Alembic migrations of the store; run by `db.connect.create` and later by `orch store upgrade`."""
