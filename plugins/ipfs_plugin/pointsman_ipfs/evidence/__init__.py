"""Evidence: which bytes were submitted, who described them how and when. All of it is blocks of a store."""

from .evidence import ANYONE, About, Evidence, Filed, Record, Reindexed, Statistics

__all__ = ["ANYONE", "About", "Evidence", "Filed", "Record", "Reindexed", "Statistics"]
