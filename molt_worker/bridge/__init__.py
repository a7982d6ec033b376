"""The bridge: has a pool of this host serve requests that come from other hosts by a messaging system."""
