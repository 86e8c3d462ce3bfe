"""Content as blocks: identifiers, files and folders of UnixFS, DAG-CBOR, CAR files. No store, no network."""
