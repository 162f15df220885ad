"""The default policy: look before you buy, weight instead of deleting."""
