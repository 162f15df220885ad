"""The SQLite record of everything written, bought, judged and decided."""

from evolvedirector.store.ledger.ledger import Ledger
from evolvedirector.store.ledger.rounds import RoundRow
from evolvedirector.store.ledger.rows import Call, DrawnImage, Duel, Fault, Spend, StoredReply, TeacherResult

__all__ = ["Call", "DrawnImage", "Duel", "Fault", "Ledger", "RoundRow", "Spend", "StoredReply", "TeacherResult"]
