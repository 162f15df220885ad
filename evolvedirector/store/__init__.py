"""The evolving dataset on disk: ledger, blobs, shards, revisions and reading order."""

from evolvedirector.store.blobs import Blobs
from evolvedirector.store.dataset import DatasetStore
from evolvedirector.store.delta import Revision
from evolvedirector.store.errors import DiskFullError, StoreError
from evolvedirector.store.evolving_dataset import EvolvingDataset
from evolvedirector.store.images import check_image, decode_image, image_size, sniff_format
from evolvedirector.store.ledger import Ledger
from evolvedirector.store.order import KeyedOrder, Stratum
from evolvedirector.store.reader import RevisionReader
from evolvedirector.store.revision import RevisionFiles

__all__ = [
    "Blobs",
    "DatasetStore",
    "DiskFullError",
    "EvolvingDataset",
    "KeyedOrder",
    "Ledger",
    "Revision",
    "RevisionFiles",
    "RevisionReader",
    "StoreError",
    "Stratum",
    "check_image",
    "decode_image",
    "image_size",
    "sniff_format",
]
