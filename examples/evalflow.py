from evalscope_evalflow.cli.command_line import main

raise SystemExit(main())
