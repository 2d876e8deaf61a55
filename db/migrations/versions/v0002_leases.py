"""Leases, cancelled and voided runs, extended sweeps, and more of where an attempt ran."""

import sqlalchemy as sa
from alembic import op

from db.schema import TEXT

revision = "0002"
down_revision = "0001"

STATES = "state IN ('pending', 'running', 'done', 'diverged', 'failed', 'cancelled', 'voided')"
OUTCOMES = "outcome IS NULL OR outcome IN ('done', 'diverged', 'failed', 'cancelled', 'paused', 'died', 'lost')"


def upgrade() -> None:
    op.add_column("owners", sa.Column("ttl", sa.Double(), server_default="60", nullable=False))
    op.add_column(
        "sweep_runs", sa.Column("extended", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
    with op.batch_alter_table("runs") as batch:
        batch.drop_constraint(op.f("ck_runs_state"), type_="check")
        batch.create_check_constraint(op.f("ck_runs_state"), STATES)
    with op.batch_alter_table("attempts") as batch:
        batch.drop_constraint(op.f("ck_attempts_outcome"), type_="check")
        batch.create_check_constraint(op.f("ck_attempts_outcome"), OUTCOMES)
        batch.add_column(sa.Column("cause", TEXT, nullable=True))
        batch.add_column(sa.Column("node", TEXT, nullable=True))
        batch.add_column(sa.Column("threads", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("precision", TEXT, nullable=True))
        batch.add_column(sa.Column("micro_batch", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("resumed_step", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("data_fingerprint", TEXT, nullable=True))
        batch.add_column(sa.Column("weights_sha256", TEXT, nullable=True))
    op.create_table(
        "voids",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_key", sa.Integer(), nullable=False),
        sa.Column("voided", sa.Double(), nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("history", TEXT, nullable=False),
        sa.Column("artifacts", TEXT, nullable=False),
        sa.ForeignKeyConstraint(["run_key"], ["runs.key"], name=op.f("fk_voids_run_key")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_voids")),
        sa.UniqueConstraint("run_key", "voided", name=op.f("uq_voids_run_key_voided")),
    )
