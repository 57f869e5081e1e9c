"""The conformance kit: what plugin authors test their parts, backbones, heads and readers with."""
