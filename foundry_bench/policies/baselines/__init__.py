"""Policies of others, small, in the same harness: trained by the same loop, judged by the same runner."""
