"""Stages, plan and runner: the work of a build on a cluster."""
