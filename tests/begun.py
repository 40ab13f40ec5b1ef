"""Runs that are begun in a store, without an executor."""

import asyncio


def begun(store, *about, **settings):
    """Take a run over in a `_core.Store`; its journal lets it go."""

    async def take():
        return await store.begin(*about, **settings)

    return asyncio.run(take())
