"""Why a trial diverged."""
