"""Measurements that anyone can repeat: each prints a table and writes JSON."""
