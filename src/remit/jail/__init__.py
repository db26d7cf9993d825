"""The sandbox around one call: see README.md and THREAT_MODEL.md in this folder."""
