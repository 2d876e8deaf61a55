"""The first schema: sweeps, runs, attempts, epochs, metrics, artifacts, owners."""

import sqlalchemy as sa
from alembic import op

from db.schema import LARGE, TEXT

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "owners",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("host", TEXT, nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("boot_id", TEXT, nullable=False),
        sa.Column("process_started", TEXT, nullable=False),
        sa.Column("started", sa.Double(), nullable=False),
        sa.Column("heartbeat", sa.Double(), nullable=False),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_owners")),
    )
    op.create_table(
        "sweeps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("yaml", TEXT, nullable=False),
        sa.Column("spec_hash", TEXT, nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeps")),
        sa.UniqueConstraint("name", name=op.f("uq_sweeps_name")),
    )
    op.create_table(
        "runs",
        sa.Column("key", sa.Integer(), nullable=False),
        sa.Column("id", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("model", TEXT, nullable=False),
        sa.Column("dataset", TEXT, nullable=False),
        sa.Column("method", TEXT, nullable=False),
        sa.Column("learning_rate", sa.Double(), nullable=False),
        sa.Column("hyperparameters", TEXT, nullable=False),
        sa.Column("seed", LARGE, nullable=False),
        sa.Column("variant", TEXT, nullable=False),
        sa.Column("epochs", sa.Integer(), nullable=False),
        sa.Column("content", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("owner_id", sa.Integer(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("data_fingerprint", TEXT, nullable=True),
        sa.Column("weights_sha256", TEXT, nullable=True),
        sa.CheckConstraint(
            "(state = 'running') = (owner_id IS NOT NULL)", name=op.f("ck_runs_owned_while_running")
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'running', 'done', 'diverged', 'failed')",
            name=op.f("ck_runs_state"),
        ),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name=op.f("fk_runs_owner_id")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_runs")),
        sa.UniqueConstraint("id", name=op.f("uq_runs_id")),
    )
    op.create_index(
        op.f("ix_runs_model_dataset_method"), "runs", ["model", "dataset", "method"], unique=False
    )
    op.create_index(op.f("ix_runs_state"), "runs", ["state"], unique=False)
    op.create_table(
        "artifacts",
        sa.Column("run_key", sa.Integer(), nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("path", TEXT, nullable=False),
        sa.Column("sha256", TEXT, nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_key"], ["runs.key"], name=op.f("fk_artifacts_run_key")),
        sa.PrimaryKeyConstraint("run_key", "name", name=op.f("pk_artifacts")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "attempts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_key", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("owner_id", sa.Integer(), nullable=False),
        sa.Column("host", TEXT, nullable=True),
        sa.Column("device", TEXT, nullable=True),
        sa.Column("versions", TEXT, nullable=True),
        sa.Column("git_commit", TEXT, nullable=True),
        sa.Column("git_dirty", sa.Boolean(), nullable=True),
        sa.Column("claimed", sa.Double(), nullable=False),
        sa.Column("started", sa.Double(), nullable=True),
        sa.Column("heartbeat", sa.Double(), nullable=True),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.Column("resumed_from", sa.Integer(), nullable=True),
        sa.Column("outcome", TEXT, nullable=True),
        sa.Column("irreproducible", sa.Boolean(), nullable=False),
        sa.Column("error", TEXT, nullable=True),
        sa.Column("traceback", TEXT, nullable=True),
        sa.Column("peak_memory", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "outcome IS NULL OR outcome IN ('done', 'diverged', 'failed', 'paused', 'died', 'lost')",
            name=op.f("ck_attempts_outcome"),
        ),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name=op.f("fk_attempts_owner_id")),
        sa.ForeignKeyConstraint(["run_key"], ["runs.key"], name=op.f("fk_attempts_run_key")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
        sa.UniqueConstraint("run_key", "number", name=op.f("uq_attempts_run_key_number")),
    )
    op.create_table(
        "dependencies",
        sa.Column("run_key", sa.Integer(), nullable=False),
        sa.Column("needs_key", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["needs_key"], ["runs.key"], name=op.f("fk_dependencies_needs_key")
        ),
        sa.ForeignKeyConstraint(["run_key"], ["runs.key"], name=op.f("fk_dependencies_run_key")),
        sa.PrimaryKeyConstraint("run_key", "needs_key", name=op.f("pk_dependencies")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "epochs",
        sa.Column("run_key", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("train_loss", sa.Double(), nullable=True),
        sa.Column("train_accuracy", sa.Double(), nullable=True),
        sa.Column("learning_rate", sa.Double(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("images_per_second", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["run_key"], ["runs.key"], name=op.f("fk_epochs_run_key")),
        sa.PrimaryKeyConstraint("run_key", "epoch", name=op.f("pk_epochs")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "sweep_runs",
        sa.Column("sweep_id", sa.Integer(), nullable=False),
        sa.Column("run_key", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("requested", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["run_key"], ["runs.key"], name=op.f("fk_sweep_runs_run_key")),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name=op.f("fk_sweep_runs_sweep_id")),
        sa.PrimaryKeyConstraint("sweep_id", "run_key", name=op.f("pk_sweep_runs")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_sweep_runs_run_key"), "sweep_runs", ["run_key"], unique=False)
    op.create_table(
        "metrics",
        sa.Column("run_key", sa.Integer(), nullable=False),
        sa.Column("split", TEXT, nullable=False),
        sa.Column("group", TEXT, nullable=False),
        sa.Column("metric", TEXT, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("correct", sa.Integer(), nullable=True),
        sa.Column("n", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["run_key", "epoch"],
            ["epochs.run_key", "epochs.epoch"],
            name=op.f("fk_metrics_run_key_epoch"),
        ),
        sa.PrimaryKeyConstraint(
            "run_key", "split", "group", "metric", "epoch", name=op.f("pk_metrics")
        ),
        sqlite_with_rowid=False,
    )
