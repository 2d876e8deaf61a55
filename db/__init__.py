"""The results database: records, schema and store. Knows SQLAlchemy; no torch, ray or click."""
