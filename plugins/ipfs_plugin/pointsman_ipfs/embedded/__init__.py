"""The embedded store: a folder of CAR files and an index. From its hooks down to the disk, each uses those below it:

blocks.py      the hooks, and one put
_opened.py     what a process has open of one store
_collect.py    what no pin keeps goes, and packs that have become mostly empty
_holding.py    what is there and is to be pinned, held beside a collection
_writer.py     puts into packs: small ones together, a large one by itself
_shelf.py      blocks out of packs, each verified; what is wrong is put aside
_places.py     where blocks are: written a moment ago, in the index, or in packs that it does not know yet
_index.py      blocks, pins and packs in SQLite; _database.py has its file
_packs.py      the packs themselves, which say all that the index says
_reserve.py, _disk.py    room for what makes room; what the disk is asked
"""
