from evalscope_evalflow.cli import main

raise SystemExit(main())
