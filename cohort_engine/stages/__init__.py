"""Stages: what is done to one subject. Each says what it reads, writes and needs, and how it is configured."""
