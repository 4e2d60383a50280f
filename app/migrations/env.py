"""Run migrations on the database that the app would use: the same environment, read by the same code."""

import os
from logging.config import fileConfig
from pathlib import Path

from alembic import context
from flask import Flask

from newsboard.config import Settings
from newsboard.database import Database
from newsboard.models import Base


def migrate() -> None:
    """Run what Alembic was asked for in one transaction: a migration that fails leaves nothing behind."""
    settings = Settings.from_environ(os.environ, Path(Flask("newsboard").instance_path))
    database = Database(settings.database_url, create=True)
    with database.engine.execution_options(newsboard_write=True).connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            transactional_ddl=True,  # SQLite can, too; Alembic assumes that it can't
            render_as_batch=connection.dialect.name == "sqlite",  # which has no ALTER COLUMN
        )
        with context.begin_transaction():
            context.run_migrations()
    database.close()


if context.config.config_file_name:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)
if context.is_offline_mode():
    raise SystemExit("This needs the database itself: SQL scripts (--sql) aren't supported")
migrate()
