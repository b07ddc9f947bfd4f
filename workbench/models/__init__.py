"""Models by name: the embedded SmolLM2, the lab pair, tables, a local folder, or any causal language model of the hub.

One copy of a model is shared by every run and page of a process and never changed; a run's own state lives in its
`workbench.models.session.Session`. Importing this package loads none of torch and transformers.
"""

from __future__ import annotations

from workbench.models.hub import Entry, LoadedModel, available, cache_folder, load, pull
from workbench.models.table import TableLM
from workbench.models.table_dlm import TableDLM

__all__ = ["Entry", "LoadedModel", "TableDLM", "TableLM", "available", "cache_folder", "load", "pull"]
